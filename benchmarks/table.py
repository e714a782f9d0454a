"""Print the tables of `results/*.json` in Markdown, for the README.

    python benchmarks/table.py [FILE ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import measure


def markdown(path: Path) -> str:
    """Return one file's tables, and under them the machine."""
    content = json.loads(path.read_text())
    lines = _stop_error(content['rows']) if 'rows' in content else []
    for title, rows in content.get('tables', {}).items():
        headings = ' | '.join([title, *measure.HEADINGS[1:]])
        lines += [f'| {headings} |', '|---|--:|--:|--:|--:|', *(
            f'| {" | ".join(measure.cells(row))} |' for row in rows), '']
    facts = content['machine']
    place = facts['gpu'] or f'{facts["processor"]}, {facts["threads"]} of {facts["cores"]} cores'
    return '\n'.join([*lines, f'{place}, torch {facts["torch"]}, {facts["date"]}, load {facts["load"]:.1f}.'])


def _stop_error(rows: list[dict]) -> list[str]:
    return ['| stop_error | mini-batches | worst mean | worst variance |', '|--:|--:|--:|--:|', *(
        f'| {row["stop_error"] or "whole pass"} | {row["batches"]} of {row["of"]} | {row["worst_mean"]:.2%} | '
        f'{row["worst_variance"]:.2%} |' for row in rows), '']


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='*', type=Path, metavar='FILE')
    files = parser.parse_args().files or sorted(measure.RESULTS.glob('*.json'))
    print('\n\n'.join(map(markdown, files)))


if __name__ == '__main__':
    main()
