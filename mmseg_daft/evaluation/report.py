"""Tell results: report.html with everything in it, beside it figures and numbers.csv, and tables on the console.

A row of numbers.csv is a number with its interval. ``corruption`` is a corruption, a group of them, ``all``, or empty
for images as they are; ``against`` is the run that a difference, CD or rCD is to. Numbers are shares: 0.7 is 70 %.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mmseg_daft.analysis.figures import figure_style
from mmseg_daft.analysis.findings import Scene
from mmseg_daft.analysis.report import write_csv, write_page
from mmseg_daft.console import print_table
from mmseg_daft.evaluation.confusion import Estimate, estimate
from mmseg_daft.evaluation.corruptions import group_of
from mmseg_daft.evaluation.figures import report_figures
from mmseg_daft.evaluation.results import COLUMNS, OWN, Results

_SIDE_BY_SIDE = 3  # runs in a table on the console


def write_report(
    out: Path, results: Results, scenes: Sequence[Scene], palette: Sequence[Sequence[int]], formats: Sequence[str],
    console: Console | None = None,
) -> None:
    """Write ``numbers.csv``, ``figures/`` and ``report.html``; their titles and captions are the template's."""
    write_csv(out / 'numbers.csv', COLUMNS, results.rows())
    with figure_style():
        write_page(
            out, 'evaluation/report.html.j2', report_figures(results, scenes, palette), formats, console, shown,
            results=results, run_columns={f'run {run}': run for run in results.runs},
            summary_rows=[{'name': name, **{f'run {run}': value for run, value in by_run.items()}}
                          for name, by_run in results.headline.items()],
            difference_rows=list(difference_rows(results)),
            severity_columns={f'severity {number}': f'severity {number}' for number in results.severities},
            corruption_rows=list(corruption_rows(results)), class_rows=results.class_table(),
            image_columns={f'run {run}': run for run in results.runs},
            image_rows=results.image_table() if len(results.runs) > 1 else [])


def shown(cell: object) -> str:
    """Return a cell's text: shares in percent, a dash for what there is none of."""
    if isinstance(cell, Estimate):
        return shown(cell.value) + ('' if math.isnan(cell.low) else f' [{shown(cell.low)}, {shown(cell.high)}]')
    if isinstance(cell, float):
        return '–' if math.isnan(cell) else f'{100 * cell:.2f}'
    return str(cell)


def difference_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row for each pair of runs and each part in which they are compared."""
    for (run, against), parts in results.differences.items():
        for (measure, set_, corruption), values in parts.items():
            difference = estimate(values)
            where = set_ if measure == results.measure.name else corruption.replace('_', ' ')
            yield {'part': f'{measure}, {where}', 'run': run, 'against': against, 'difference': difference,
                   'verdict': difference.verdict() or 'too few images'}


def corruption_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row for each corruption and run: mIoU or accuracy by severity, their mean, and CD and rCD."""
    if not results.corruptions:
        return
    grids = {run: results.grid(run)[..., 0] for run in results.runs}
    for i, name in enumerate(['all', *results.corruptions]):
        for run in results.runs:
            by_severity = grids[run][i - 1].tolist() if i else [math.nan] * len(results.severities)
            yield {'corruption': name.replace('_', ' '), 'group': group_of(name) if i else 'all', 'run': run,
                   **{f'severity {s}': value for s, value in zip(results.severities, by_severity, strict=True)},
                   'mean': estimate(results.compared[run]['mPC', OWN, name]),
                   **{measure: float(parts[name][0]) for measure, parts in results.degradation[run].items()}}


def show_results(console: Console, results: Results) -> None:
    """Print the numbers, the differences to the reference, and the notes on how to read them."""

    def cell(value: Estimate, sign: str = '') -> str:  # an interval on a line of its own
        text = f'{100 * value.value:{sign}.2f}'
        return text if math.isnan(value.low) else f'{text}\n{100 * value.low:{sign}.2f} to {100 * value.high:{sign}.2f}'

    headline = results.headline
    for runs in _some(results.runs):
        print_table(console, f'{results.measure.name} in %, with 95 % intervals over images', ('', *runs),
                    [[name, *(cell(by_run[run]) for run in runs)] for name, by_run in headline.items()])
    differences = {run: parts for (run, against), parts in results.differences.items()
                   if against == results.reference}
    for runs in _some(list(differences)):
        rows = []
        for part in (part for part in differences[runs[0]] if part[2] in ('', 'all')):
            values = [estimate(differences[run][part]) for run in runs]
            rows.append([results.title(part), *(f'{cell(value, "+")}\n{value.verdict()}'.rstrip() for value in values)])
        if results.corruptions:
            for measure in ('CD', 'rCD'):
                rows.append([f'm{measure} in %', *(
                    cell(estimate(results.degradation[run][measure]['all'])) for run in runs)])
        print_table(console, f'Against {results.reference}: points above it, paired intervals', ('', *runs), rows)
    for note in results.notes[1 + len(results.runs):]:
        console.print(f'Note: {note}', style='yellow', markup=False)


def _some(runs: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield so many runs as fit side by side."""
    return (runs[i:i + _SIDE_BY_SIDE] for i in range(0, len(runs), _SIDE_BY_SIDE))
