"""What a sweep found: one row per run, one per method, and what is missing."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PAPER = {'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT', 'ft-conversion': 'FT + conversion',
         'lpft-conversion': 'LP-FT + conversion', 'integrated-lpft': 'integrated LP-FT'}
COLUMNS = ('name', 'state', 'method', 'stage', 'backbone_lr', 'head_lr', 'seed', 'start', 'metric', 'value', 'split',
           'iterations', 'iteration', 'failures', 'gpu_hours', 'gpus', 'host', 'job', 'revision', 'versions', 'config',
           'checkpoint', 'command')


@dataclass(frozen=True)
class MethodResult:
    """A method's reported number.

    Attributes:
        method: As in ``protocols()``.
        rates: ``backbone_lr`` and ``head_lr`` that won.
        values: The metric by seed.
        absent: Why a seed has none, by seed.
    """

    method: str
    rates: tuple[float, float]
    values: Mapping[int, float]
    absent: Mapping[int, str]

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that are there; the table names those that are not."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (n - 1); one seed has none."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


def method_results(rows: Iterable[Mapping[str, Any]]) -> list[MethodResult]:
    """Return the reported results from rows as of ``COLUMNS``, in the paper's order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row['stage'] == 'report':
            groups.setdefault(row['method'], []).append(row)
    order = [*(method for method in PAPER if method in groups), *sorted(set(groups) - set(PAPER))]
    return [MethodResult(
        method, (groups[method][0]['backbone_lr'], groups[method][0]['head_lr']),
        {row['seed']: row['value'] for row in groups[method] if row['state'] == 'done'},
        {row['seed']: row['state'] for row in groups[method] if row['state'] != 'done'}) for method in order]


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the tidy table: one row per run, empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows({key: '' if row.get(key) is None else row[key] for key in COLUMNS} for row in rows)
    return text.getvalue()


def to_markdown(results: list[MethodResult], metric: str) -> str:
    """Return the table in Markdown."""
    lines = [f'| method | {metric} % | seeds | backbone_lr | head_lr |', '|---|---|---|---|---|']
    lines += [f'| {PAPER.get(r.method, r.method)} | {number(r, "±")} | {seeds(r)} | {r.rates[0]:g} | {r.rates[1]:g} |'
              for r in results]
    return '\n'.join(lines) + '\n'


def to_latex(results: list[MethodResult], metric: str) -> str:
    """Return the table in LaTeX (package booktabs), the best in bold as in the paper's Table 3."""
    means = [round(r.mean, 2) for r in results if r.mean is not None and not r.absent]
    lines = [r'\begin{tabular}{lrrrr}', r'\toprule', rf'Method & {metric} (\%) & Seeds & $\eta_\theta$ & $\eta_w$ \\',
             r'\midrule']
    for r in results:
        text = number(r, r'$\pm$')
        if r.mean is not None and not r.absent and round(r.mean, 2) == max(means):
            text = rf'\textbf{{{text}}}'
        lines.append(rf'{PAPER.get(r.method, r.method)} & {text} & {seeds(r)} & {r.rates[0]:g} & {r.rates[1]:g} \\')
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}']) + '\n'


def number(result: MethodResult, plus_minus: str) -> str:
    """Return mean and standard deviation as text."""
    if result.mean is None:
        return '--'
    deviation = result.deviation
    return f'{result.mean:.2f}' + ('' if deviation is None else f' {plus_minus} {deviation:.2f}')


def seeds(result: MethodResult) -> str:
    """Return how many seeds there are, and what is with those that are not."""
    absent = ', '.join(f'seed {seed} {state}' for seed, state in sorted(result.absent.items()))
    total = len(result.values) + len(result.absent)
    return str(total) if not absent else f'{len(result.values)} of {total} ({absent})'
