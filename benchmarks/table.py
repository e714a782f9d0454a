"""Print the tables of `results/*.json` in Markdown, or put them into the README in place of those that are there.

    python benchmarks/table.py [FILE ...] [--readme]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import measure

README = Path(__file__).with_name('README.md')


def markdown(path: Path) -> str:
    """Return one file's tables, and under them the machine."""
    content = json.loads(path.read_text())
    lines = _stop_error(content['rows']) if 'rows' in content else []
    lines += _checks(content['setting']['checks'], content['machine']['gpu']) if 'checks' in content['setting'] else []
    for title, rows in content.get('tables', {}).items():
        headings = ' | '.join([title, *measure.HEADINGS[1:]])
        lines += [f'| {headings} |', '|---|--:|--:|--:|--:|', *(
            f'| {" | ".join(measure.cells(row))} |' for row in rows), '']
    facts = content['machine']
    place = f'{facts["gpu"]}, cuDNN {facts["cudnn"]}' if facts['gpu'] else (
        f'{facts["processor"]}, {facts["threads"]} of {facts["cores"]} cores')
    return '\n'.join([*lines, f'{place}, torch {facts["torch"]}, {facts["date"]}, load {facts["load"]:.1f}.'])


def _stop_error(rows: list[dict]) -> list[str]:
    return ['| stop_error | mini-batches | worst mean | worst variance |', '|--:|--:|--:|--:|', *(
        f'| {row["stop_error"] or "whole pass"} | {row["batches"]} of {row["of"]} | {row["worst_mean"]:.2%} | '
        f'{row["worst_variance"]:.2%} |' for row in rows), '']


def _checks(checks: list[dict], card: str | None) -> list[str]:
    """Return a row for each check with the number nearest to its limit, and one for each number without a limit."""
    lines = [f'| Checks of `on_gpu.py` on {card or "a CPU, toys"} | number | at most | |', '|---|--:|--:|---|']
    for check in checks:
        limited = [number for number in check['numbers'] if number['limit'] is not None]
        nearest = max(limited, key=lambda n: n['value'] - n['limit'] if not n['limit'] else n['value'] / n['limit'],
                      default=None)
        state = f'failed: {check["error"].splitlines()[0]}' if check['error'] else 'failed' if check['failed'] else ''
        if nearest or state:
            what = f'{check["check"]}: nearest of {len(limited)} to its limit: {nearest["what"]}' if nearest else (
                check['check'])
            value, limit = (f'{nearest[key]:.2g}' for key in ('value', 'limit')) if nearest else ('', '')
            lines.append(f'| {what} | {value} | {limit} | {state} |')
        lines += [f'| {n["what"]} | {n["value"]:.3g} | {"" if n["goal"] is None else "goal {:g}".format(n["goal"])} | |'
                  for n in check['numbers'] if n['limit'] is None]
    return [*lines, '']


def main() -> None:
    """Print all tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='*', type=Path, metavar='FILE')
    parser.add_argument('--readme', action='store_true', help='replace the tables of benchmarks/README.md')
    args = parser.parse_args()
    tables = '\n\n'.join(map(markdown, args.files or sorted(measure.RESULTS.glob('*.json'))))
    if args.readme:
        text = README.read_text()
        README.write_text(f'{text[:text.index("| ")]}{tables}\n')
    else:
        print(tables)


if __name__ == '__main__':
    main()
