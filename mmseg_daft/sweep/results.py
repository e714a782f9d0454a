"""What a sweep shows, and what it writes: runs.csv, table.md, table.tex, curves.png, commands.sh, missing.txt."""

import csv
import io
import json
import re
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmseg_daft.files import read_json, refuse_unwritable, write_atomically
from mmseg_daft.run_output import iterations_done, seconds_per_iteration
from mmseg_daft.sweep.curves import draw_curves
from mmseg_daft.sweep.folder import SweepFolder
from mmseg_daft.sweep.job import slurm_queue
from mmseg_daft.sweep.protocol import PAPER, RATES, REPORT, STATES, Decision, Run, Seen, rate_text

MOST_RUNNING = 8


def plan_table(folder: SweepFolder) -> tuple[Table, str]:
    """Return the table of all runs by method and stage, and a line on their sum."""
    sweep, timed = folder.sweep, read_json(folder.path / 'probe.json') or {}
    table = _narrow_table(['method', 'stage', 'runs', *(['GPU h'] if timed else [])], [*RATES, 'seeds'])
    total, hours = 0, 0.0
    for method in sweep.order():
        protocol, stages = sweep.methods[method], []
        tried = protocol.tried()
        rates = {rate: rate_text(value) for rate, value in protocol.fixed.items()}
        for stage, step in protocol.stages().items():
            swept = {rate: ', '.join(map(rate_text, tried[stage])) for rate in step.rates}
            if len(step.rates) == 2:
                swept['head_lr'] = 'same'
            stages.append((stage, {**rates, **swept}, sweep.select_seeds, len(tried[stage])))
            rates |= dict.fromkeys(step.rates, 'best')
        for stage, shown, seeds, points in [*stages, (REPORT, rates, sweep.report_seeds, 1)]:
            runs, cost = points * len(seeds), []
            if timed:
                seconds = timed[method]['seconds_around'] + sweep.iterations * timed[method]['seconds_per_iteration']
                cost = [runs * seconds * max(1, folder.gpus_per_run) / 3600]
            total, hours = total + runs, hours + sum(cost)
            table.add_row(method, stage.replace('-', '-\n'), str(runs), *map(_shown, cost),
                          *(shown[rate] for rate in RATES), ', '.join(map(str, seeds)), end_section=stage == REPORT)
    what, sample = (f'{folder.epochs} epochs', '1') if folder.epochs else (f'{sweep.iterations} iterations', '20')
    return table, f'{total} runs of {what}' + (
        f', about {_shown(hours)} GPU hours by the probe.' if timed else
        f'; plan with --probe {sample} to train {sample} of these for each method and estimate the GPU hours.')


def screen(folder: SweepFolder, decision: Decision, parallel: int, remark: str = '') -> RenderableType:
    """Return the picture of a sweep."""
    best = f'best {folder.sweep.metric}\nat {", ".join(RATES)}'
    table = _narrow_table(['method', 'stage', 'runs', best], ['of them'])
    for method, stage in dict.fromkeys((run.method, run.stage) for run in decision.runs):
        runs = [run for run in decision.runs if (run.method, run.stage) == (method, stage)]
        count = Counter(decision.look(run).state for run in runs)
        table.add_row(method, stage, str(len(runs)), _best(decision, runs),
                      ', '.join(f'{count[state]} {state}' for state in STATES if count[state]))
    lines: list[RenderableType] = [Text(str(folder.path), style='bold'), table]
    progress = {run.name: iterations_done(folder.run_folder(run).work_dir) for run in decision.runs
                if decision.look(run).state == 'running'}
    for name, done in [*progress.items()][:MOST_RUNNING]:
        lines.append(Text(f'  {done:>6} of {folder.sweep.iterations}  {name}'))
    if len(progress) > MOST_RUNNING:
        lines.append(Text(f'  and {len(progress) - MOST_RUNNING} more'))
    lines += [Text(f'{method} cannot go on: {reason}', style='red') for method, reason in decision.blocked.items()]
    failed = [run for run in decision.runs if decision.look(run).state == 'failed']
    for place in map(folder.run_folder, failed[:3]):  # the training's log, or that of a job which did not come so far
        log = place.log if place.log.exists() else folder.path / 'jobs' / f'{place.job()}_0_log.err'
        lines.append(Text(f'  why: {log}', style='red'))
    lines.append(Text(_time_left(folder, decision, sum(progress.values()), parallel)))
    if remark:
        lines.append(Text(remark, style='yellow'))
    return Group(*lines)


@dataclass
class ChangeLog:
    """The sweep as lines of a log, one per change: for a file or a batch job, where a screen cannot move."""

    console: Console
    before: dict[str, str] = field(default_factory=dict)

    def __call__(self, decision: Decision, remark: str) -> None:
        """Print what has changed."""
        now = {f'{method} cannot go on': reason for method, reason in decision.blocked.items()}
        for run in decision.runs:
            seen = decision.look(run)
            now[run.name] = seen.state if seen.value is None else f'{seen.state} {seen.value:.2f}'
        now |= {'note': remark} if remark else {}
        for name, state in now.items():
            if self.before.get(name) != state:
                self.console.print(f'{time.strftime("%H:%M:%S")} {name}: {state}', markup=False)
        self.before = now


def _narrow_table(whole: Sequence[str], wrapped: Sequence[str]) -> Table:
    """Return a table for 80 columns: cells of ``whole`` columns stay on one line, those of the others may wrap."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in [*whole, *wrapped]:
        number = heading in ('runs', 'GPU h')
        table.add_column(Text(heading), no_wrap=heading in whole, justify='right' if number else 'left')
    return table


def _shown(hours: float) -> str:
    return f'{hours:.1f}' if hours >= 0.1 else f'{hours:.3f}'


def _best(decision: Decision, runs: list[Run]) -> str:
    """Return the best mean over the seeds so far, with its rates."""
    found = {rates: [v for v in values if v is not None] for rates, values in decision.values(runs).items()}
    mean, rates = max(((statistics.fmean(each), rates) for rates, each in found.items() if each), default=(None, None))
    return '' if mean is None else f'{mean:.2f} at {", ".join(map(rate_text, rates))}'


def _time_left(folder: SweepFolder, decision: Decision, done: int, parallel: int) -> str:
    """Return how many runs there are to go and how long they will take, by the runs so far or else by the probe."""
    if decision.complete:
        return 'Complete.'
    open_runs = sum(not decision.look(run).ended for run in decision.runs)
    text = f'{open_runs} runs to go'
    if decision.to_come:
        text += f', and {decision.to_come} whose rates are yet to be found'
    speeds = []
    for run in decision.runs:
        place = folder.run_folder(run)
        result = place.result()
        speeds.append(result['seconds_per_iteration'] if result else seconds_per_iteration(place.work_dir))
    timed = (read_json(folder.path / 'probe.json') or {}).values()
    speeds = [speed for speed in speeds if speed] or [method['seconds_per_iteration'] for method in timed]
    if not speeds:
        return f'{text}.'
    iterations = (open_runs + decision.to_come) * folder.sweep.iterations - done
    hours = iterations * statistics.median(speeds) / max(1, parallel) / 3600
    return f'{text}; about {hours:.1f} h of training left, {parallel} at a time.'


@dataclass(frozen=True)
class MethodResult:
    """A method's reported number, at the rates that won."""

    method: str
    rates: tuple[float, float]
    values: Mapping[int, float]  # the metric by seed
    absent: Mapping[int, str]  # the state of the seeds without one

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
        rates = map(rate_text, self.rates) if any(self.rates) else ('--', '--')  # of a logistic regression
        return PAPER[self.method], number, seeds, *rates


def method_results(decision: Decision, evaluated: Mapping[str, float] | None = None) -> list[MethodResult]:
    """Return the reported results in the paper's order; or those of an evaluation, by the runs' names."""
    results = []
    for method in PAPER:
        if runs := [run for run in decision.runs if (run.method, run.stage) == (method, REPORT)]:
            values = {run.seed: decision.look(run).value if evaluated is None else evaluated.get(run.name)
                      for run in runs}
            results.append(MethodResult(
                method, runs[0].rates, {seed: value for seed, value in values.items() if value is not None},
                {run.seed: 'not evaluated' if evaluated is not None else decision.look(run).state
                 for run in runs if values[run.seed] is None}
                | {run.seed: 'without a start' for run in decision.without_start.get(method, [])}))
    return results


def read_evaluation(path: Path, decision: Decision) -> dict[str, dict[str, float]]:
    """Return what ``mmseg-daft evaluate`` found, in %: by measure, then by the name of the run.

    Raises:
        SystemExit: The file is no ``numbers.csv``, or evaluates what is no run of the sweep.
    """
    found: dict[str, dict[str, float]] = {}
    names = {run.name for run in decision.runs}
    try:
        for row in csv.DictReader(path.read_text(encoding='utf-8').splitlines()):
            if row['measure'] in ('mIoU', 'accuracy', 'mPC', 'rPC') and row['corruption'] in ('', 'all'):
                measure = row['measure'] if row['measure'] in ('mPC', 'rPC') else f'{row["measure"]} {row["set"]}'
                found.setdefault(measure, {})[row['run']] = 100 * float(row['value'])
    except (OSError, KeyError, ValueError) as error:
        raise SystemExit(f'--evaluation {path}: not the numbers.csv of mmseg-daft evaluate ({error!r}).') from error
    if unknown := sorted({name for by_run in found.values() for name in by_run} - names):
        raise SystemExit(f'--evaluation {path}: {unknown[0]} is no run of the sweep. Evaluate runs by their names in '
                         'runs.csv: mmseg-daft evaluate CONFIG NAME=CHECKPOINT.')
    return found


def further_metrics(folder: SweepFolder, decision: Decision) -> dict[str, dict[str, float]]:
    """Return what the reported runs' tests found on other domains, as ``read_evaluation``."""
    found: dict[str, dict[str, float]] = {}
    for run in decision.runs:
        metrics = (folder.run_folder(run).result() or {}).get('metrics', {}) if run.stage == REPORT else {}
        for measure, value in metrics.items():
            if measure.endswith(f'/{folder.sweep.metric}'):
                found.setdefault(measure, {})[run.name] = value
    return found


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the tidy table: one row per run, empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(results: list[MethodResult], metric: str) -> str:
    """Return the table in Markdown."""
    shown = metric.replace('|', r'\|')
    lines = [f'| method | {shown} % | seeds | backbone_lr | head_lr |', '|---|---|---|---|---|',
             *(f'| {" | ".join(result.cells())} |' for result in results)]
    return '\n'.join(lines) + '\n'


def to_latex(results: list[MethodResult], metric: str) -> str:
    """Return the table in LaTeX (package booktabs), the best in bold as in the paper's Table 3."""
    shown = re.sub(r'[&%$#_{}]', r'\\\g<0>', metric)
    means = {r.method: round(r.mean, 2) for r in results if r.mean is not None and not r.absent}
    lines = [r'\begin{tabular}{lrrrr}', r'\toprule', rf'Method & {shown} (\%) & Seeds & $\eta_\theta$ & $\eta_w$ \\',
             r'\midrule']
    for result in results:
        name, number, *others = result.cells(r'$\pm$')
        if result.method in means and means[result.method] == max(means.values()):
            number = rf'\textbf{{{number}}}'
        lines.append(' & '.join([name, number, *others]) + r' \\')
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}']) + '\n'


def write_results(folder: SweepFolder, console: Console, evaluation: Path | None = None) -> list[str]:
    """Write all files into ``DIR/results``, print the table and return what is missing."""
    refuse_unwritable(folder.path / 'results' / 'runs.csv')
    decision = folder.look(slurm_queue())
    evaluated = further_metrics(folder, decision) | (read_evaluation(evaluation, decision) if evaluation else {})
    rows = [row_of(folder, run, decision.look(run))
            | {measure: by_run.get(run.name) for measure, by_run in evaluated.items()} for run in decision.runs]
    results, place, metric = method_results(decision), folder.path / 'results', folder.sweep.metric
    missing = [f'{row["name"]}: {row["state"]}, {row["iteration"]} of {row["iterations"]} iterations' for row in rows
               if row['state'] not in ('done', 'diverged')]
    missing += [f'{row["name"]}: diverged, so its seed is not in the mean' for row in rows
                if row['stage'] == REPORT and row['state'] == 'diverged']
    missing += [f'{method}: seed {run.seed} has no start ({run.name}: {decision.look(run).state})'
                for method, runs in decision.without_start.items() for run in runs]
    missing += [f'{method}: not reported yet' for method in folder.sweep.order()
                if method not in {result.method for result in results}]
    images = folder.selecting_images
    model = f'the model that is best on the {images}' if folder.validation else 'the final model'
    note = (f'\n{metric} of {model}, on the test set of each config, mean ± standard deviation over seeds; rates '
            f'selected on {folder.selected_on}.\n')
    if missing:
        note += '\n**Incomplete**: ' + '; '.join(missing) + '.\n'
    codes = sorted({code for row in rows if row['revision'] for code in row['revision'].split(', ')})
    if len(codes) > 1:
        note += f'\n**Mixed code**: these runs were trained with {", ".join(codes)}; runs.csv says which with which.\n'
    write_atomically(place / 'runs.csv', to_csv(rows))
    for measure, by_run in evaluated.items():
        note += f'\n{to_markdown(method_results(decision, by_run), measure)}'
    write_atomically(place / 'table.md', to_markdown(results, metric) + note)
    write_atomically(place / 'table.tex', ''.join(f'% incomplete: {m}\n' for m in missing) + to_latex(results, metric))
    write_atomically(place / 'commands.sh', retrain_script(rows))
    write_atomically(place / 'missing.txt', ''.join(f'{line}\n' for line in missing))
    table = _narrow_table(['method', f'{metric} %', 'backbone_lr', 'head_lr'], ['seeds'])
    for result in results:
        _, number, seeds, *rates = result.cells()
        table.add_row(result.method, number, *rates, seeds)
    console.print(table)
    if len(codes) > 1:
        console.print(f'mixed code: {", ".join(codes)}', style='yellow', markup=False)
    for line in missing:
        console.print(f'missing: {line}', style='yellow', markup=False)
    draw_curves(decision, metric, place / 'curves.png', images)  # after all numbers
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
        value=result.get('value'), split='test' if run.stage == REPORT else folder.validation or 'held-out',
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
             *(['export CUDA_VISIBLE_DEVICES='] if described.get('gpus') == 0 else []),  # it trained on the CPU
             into(place, [word for word in described['command'] if word != '--resume'])]
    if result.get('tested'):
        checkpoint = f'{place}/{described.get("best") or Path(result["checkpoint"]).name}'  # bash finds the best one
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
