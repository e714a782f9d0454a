"""Write what a sweep found: runs.csv, table.md, table.tex, curves.png, commands.sh, missing.txt."""

from __future__ import annotations

import csv
import io
import json
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mmseg_daft.files import write_atomically
from mmseg_daft.run_output import iterations_done
from mmseg_daft.sweep.folder import SweepFolder
from mmseg_daft.sweep.job import slurm_queue
from mmseg_daft.sweep.protocol import REPORT, Decision, Run, Seen
from mmseg_daft.sweep.screen import narrow_table

PAPER = {'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT', 'ft-conversion': 'FT + conversion',
         'lpft-conversion': 'LP-FT + conversion', 'integrated-lpft': 'integrated LP-FT'}
"""The methods' names in the paper, in its order."""
# Okabe and Ito's blue and vermilion: told apart by color-blind eyes and, as one is much darker, in gray.
LINE, BEST = '#0072B2', '#D55E00'


@dataclass(frozen=True)
class MethodResult:
    """A method's reported number.

    Attributes:
        method: As in ``protocols()``.
        rates: ``backbone_lr`` and ``head_lr`` that won.
        values: The metric by seed.
        absent: The state of the seeds without one.
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
        """The sample standard deviation (n - 1), ``None`` for one seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    def cells(self, plus_minus: str = '±') -> tuple[str, str, str, str, str]:
        """Return the method's name, mean and standard deviation, seeds and both rates as texts."""
        number = '--' if self.mean is None else f'{self.mean:.2f}'
        number += '' if self.deviation is None else f' {plus_minus} {self.deviation:.2f}'
        absent = ', '.join(f'seed {seed} {state}' for seed, state in sorted(self.absent.items()))
        total = len(self.values) + len(self.absent)
        seeds = f'{len(self.values)} of {total} ({absent})' if absent else str(total)
        return PAPER.get(self.method, self.method), number, seeds, f'{self.rates[0]:g}', f'{self.rates[1]:g}'


def method_results(decision: Decision) -> list[MethodResult]:
    """Return the reported results in the paper's order."""
    groups: dict[str, dict[Run, Seen]] = {}
    for run in decision.runs:
        if run.stage == REPORT:
            groups.setdefault(run.method, {})[run] = decision.look(run)
    order = [*(method for method in PAPER if method in groups), *sorted(set(groups) - set(PAPER))]
    return [MethodResult(
        method, next(iter(groups[method])).rates,
        {run.seed: seen.value for run, seen in groups[method].items() if seen.value is not None},
        {run.seed: seen.state for run, seen in groups[method].items() if seen.value is None}) for method in order]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the tidy table: one row per run, empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(results: list[MethodResult], metric: str) -> str:
    """Return the table in Markdown."""
    lines = [f'| method | {metric} % | seeds | backbone_lr | head_lr |', '|---|---|---|---|---|',
             *(f'| {" | ".join(result.cells())} |' for result in results)]
    return '\n'.join(lines) + '\n'


def to_latex(results: list[MethodResult], metric: str) -> str:
    """Return the table in LaTeX (package booktabs), the best in bold as in the paper's Table 3."""
    means = {r.method: round(r.mean, 2) for r in results if r.mean is not None and not r.absent}
    lines = [r'\begin{tabular}{lrrrr}', r'\toprule', rf'Method & {metric} (\%) & Seeds & $\eta_\theta$ & $\eta_w$ \\',
             r'\midrule']
    for result in results:
        name, number, *others = result.cells(r'$\pm$')
        if result.method in means and means[result.method] == max(means.values()):
            number = rf'\textbf{{{number}}}'
        lines.append(' & '.join([name, number, *others]) + r' \\')
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}']) + '\n'


def write_results(folder: SweepFolder, console: Console) -> list[str]:
    """Write all files into ``DIR/results``, print the table and return what is missing."""
    decision = folder.look(slurm_queue())
    rows = [row_of(folder, run, decision.look(run)) for run in decision.runs]
    results, place, metric = method_results(decision), folder.path / 'results', folder.sweep.metric
    missing = [f'{row["name"]}: {row["state"]}, {row["iteration"]} of {row["iterations"]} iterations' for row in rows
               if row['state'] not in ('done', 'diverged')]
    missing += [f'{row["name"]}: diverged, so its seed is not in the mean' for row in rows
                if row['stage'] == REPORT and row['state'] == 'diverged']
    missing += [f'{method}: not reported yet' for method in folder.sweep.order()
                if method not in {result.method for result in results}]
    note = (f'\n{metric} of the final model on the test set of each config, mean ± standard deviation over seeds; '
            f'rates selected on {folder.held_out:g} of the training images, held out.\n')
    if missing:
        note += '\n**Incomplete**: ' + '; '.join(missing) + '.\n'
    codes = sorted({code for row in rows if row['revision'] for code in row['revision'].split(', ')})
    if len(codes) > 1:
        note += f'\n**Mixed code**: these runs were trained with {", ".join(codes)}; runs.csv says which with which.\n'
    write_atomically(place / 'runs.csv', to_csv(rows))
    write_atomically(place / 'table.md', to_markdown(results, metric) + note)
    write_atomically(place / 'table.tex', ''.join(f'% incomplete: {m}\n' for m in missing) + to_latex(results, metric))
    write_atomically(place / 'commands.sh', retrain_script(rows))
    write_atomically(place / 'missing.txt', ''.join(f'{line}\n' for line in missing))
    draw_curves(decision, metric, place / 'curves.png')
    table = narrow_table(['method', f'{metric} %', 'backbone_lr', 'head_lr'], ['seeds'])
    for result in results:
        _, number, seeds, *rates = result.cells()
        table.add_row(result.method, number, *rates, seeds)
    console.print(table)
    if len(codes) > 1:
        console.print(f'mixed code: {", ".join(codes)}', style='yellow', markup=False)
    for line in missing:
        console.print(f'missing: {line}', style='yellow', markup=False)
    console.print(f'Written to {place}:', markup=False, soft_wrap=True)
    console.print('runs.csv, table.md, table.tex, curves.png, commands.sh, missing.txt')
    return missing


def row_of(folder: SweepFolder, run: Run, seen: Seen) -> dict[str, Any]:
    """Return a run's row of ``runs.csv``."""
    place, gpus = folder.run_folder(run), max(1, folder.gpus_per_run)
    described, result = place.description(), place.result() or {}
    return dict(
        name=run.name, state=seen.state, method=run.method, stage=run.stage, backbone_lr=run.backbone_lr,
        head_lr=run.head_lr, seed=run.seed, start=run.start.name if run.start else None, metric=folder.sweep.metric,
        value=result.get('value'), split='test' if run.stage == REPORT else 'held-out',
        iterations=folder.sweep.iterations, iteration=result.get('iteration') or iterations_done(place.work_dir),
        failures=place.failures(seen.active), gpu_hours=round(result['seconds'] * gpus / 3600, 4) if result else None,
        gpus=folder.gpus_per_run, host=result.get('host'), job=result.get('job'), revision=result.get('revision'),
        versions=json.dumps(result['versions']) if result else None, config=folder.configs[run.method],
        checkpoint=result.get('checkpoint'),
        command=retrain_command(described, result, run.name) if described else None)


def retrain_command(described: Mapping[str, Any], result: Mapping[str, Any], name: str) -> str:
    """Return a shell command that trains a run again into ``$OUT/NAME``, and tests it where that made the number.

    It starts where the sweep was planned, since relative paths do, and resumes nothing. ``described`` and ``result``
    are the run's ``run.json`` and ``result.json``.
    """
    def into(place: str, command: list[str]) -> str:
        at = command.index('--work-dir') + 1
        return f'{shlex.join(command[:at])} {place} {shlex.join(command[at + 1:])}'.rstrip()

    place = f'"$OUT"/{shlex.quote(name)}'
    parts = [f'cd {shlex.quote(described.get("directory") or ".")}',
             into(place, [word for word in described['command'] if word != '--resume'])]
    if result.get('tested'):
        checkpoint = f'{place}/{Path(result["checkpoint"]).name}'
        parts.append(f'{into(f"{place}/test", described["test_command"])} {checkpoint}')
    return f'({" && ".join(parts)})'


def retrain_script(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a script with the command behind each number."""
    lines = ['#!/usr/bin/env bash', '# The command behind each number, into a folder of its own in OUT.', 'set -e',
             'OUT=$(realpath -m "${OUT:?Name a new folder: OUT=FOLDER}")']
    for row in rows:
        if row['command']:
            value = '' if row['value'] is None else f', {row["metric"]} {row["value"]:.2f} ({row["split"]})'
            lines += ['', f'# {row["name"]}: {row["state"]}{value}, code {row["revision"] or "unknown"}',
                      row['command']]
    return '\n'.join(lines) + '\n'


def draw_curves(decision: Decision, metric: str, path: Path) -> None:
    """Draw the steps of every method into one picture.

    Dots are runs, the line is the mean over seeds, a star is what won, a cross at the bottom is a rate that diverged.
    A step's panel also shows the earlier runs at the rate that it holds fixed: they compete, too.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    selecting = [run for run in decision.runs if run.stage != REPORT]
    panels = list(dict.fromkeys((run.method, run.stage) for run in selecting))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines), layout='constrained')
    FigureCanvasAgg(figure)
    values = [decision.look(run).value for run in selecting if decision.look(run).value is not None] or [0, 1]
    margin = 0.08 * (max(values) - min(values)) or 1
    for number, (method, stage) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, number)
        here = [run for run in selecting if (run.method, run.stage) == (method, stage)]
        swept, fixed = 'backbone_lr', 'head_lr'
        if len({run.backbone_lr for run in here}) == 1:
            swept, fixed = fixed, swept
        held, both = getattr(here[0], fixed), swept == 'backbone_lr' and all(len({*run.rates}) == 1 for run in here)
        if not both:
            here += [run for run in selecting
                     if run.method == method and run.stage < stage and getattr(run, fixed) == held]
        _draw_panel(axes, decision, here, swept, decision.winners.get((method, stage)), min(values) - margin)
        axes.set_xscale('log')
        axes.set_ylim(min(values) - 1.8 * margin, max(values) + 1.8 * margin)
        axes.set_title(f'{PAPER.get(method, method)}, {stage.replace("step", "step ")}'
                       f'{"" if both else f", {fixed} {held:g}"}', fontsize=10)
        axes.set_xlabel('both rates' if both else swept, fontsize=9)
        axes.set_ylabel(f'{metric} % on the held-out images', fontsize=8)
        axes.grid(True, color='0.9', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_panel(
    axes: Any, decision: Decision, runs: Sequence[Run], swept: str, winner: Run | None, bottom: float,
) -> None:
    seen = {run: decision.look(run) for run in runs}
    points = [(getattr(run, swept), seen[run].value) for run in runs if seen[run].value is not None]
    rates = sorted({rate for rate, _ in points})
    means = [statistics.fmean(value for other, value in points if other == rate) for rate in rates]
    axes.plot(rates, means, '-', color=LINE, linewidth=1.5)
    axes.plot([rate for rate, _ in points], [value for _, value in points], 'o', color=LINE, markersize=4)
    diverged = {getattr(run, swept) for run in runs if seen[run].diverged}
    axes.plot([*diverged], [bottom] * len(diverged), 'x', color='black', markersize=7, markeredgewidth=1.8)
    for rate in diverged:
        axes.annotate('diverged', (rate, bottom), xytext=(0, 6), textcoords='offset points', ha='center', fontsize=7)
    best = [seen[run].value for run in runs if winner and run.rates == winner.rates]
    if winner and best:
        star = getattr(winner, swept), statistics.fmean(best)
        axes.plot(*star, '*', color=BEST, markersize=14, markeredgecolor='black', markeredgewidth=0.6)
        axes.annotate(f'{star[1]:.2f}', star, xytext=(0, 9), textcoords='offset points', ha='center', fontsize=8,
                      fontweight='bold')
