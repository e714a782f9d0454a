"""What a sweep shows: the plan, and on one screen what runs, what waits, what is best and how long it will take."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmseg_daft.files import read_json
from mmseg_daft.run_output import iterations_done, seconds_per_iteration
from mmseg_daft.sweep.folder import SweepFolder
from mmseg_daft.sweep.protocol import RATES, REPORT, STATES, Decision, Run

MOST_RUNNING = 8


def plan_table(folder: SweepFolder) -> tuple[Table, str]:
    """Return the table of all runs by method and stage, and a line on their sum."""
    sweep, timed = folder.sweep, read_json(folder.path / 'probe.json') or {}
    rows: list[tuple[str, str, dict[str, str], Sequence[int], int]] = []
    for method in sweep.order():
        protocol = sweep.methods[method]
        rates = {rate: f'{value:g}' for rate, value in protocol.fixed.items()}
        for number, step in enumerate(protocol.steps, start=1):
            swept = {rate: ', '.join(f'{value:g}' for value in step.grid) for rate in step.rates}
            if len(step.rates) == 2:
                swept['head_lr'] = 'same'
            rows.append((method, f'step{number}', {**rates, **swept}, sweep.select_seeds, len(step.grid)))
            rates |= dict.fromkeys(step.rates, 'best')
        rows.append((method, REPORT, rates, sweep.report_seeds, 1))
    table = narrow_table(['method', 'stage', 'runs', *(['GPU h'] if timed else [])], [*RATES, 'seeds'])
    total, hours = 0, 0.0
    for method, stage, rates, seeds, points in rows:
        runs, cost = points * len(seeds), []
        if timed:
            seconds = timed[method]['seconds_around'] + sweep.iterations * timed[method]['seconds_per_iteration']
            cost = [runs * seconds * max(1, folder.gpus_per_run) / 3600]
        total, hours = total + runs, hours + sum(cost)
        table.add_row(method, stage, str(runs), *map(_shown, cost), *(rates[rate] for rate in RATES),
                      ', '.join(map(str, seeds)), end_section=stage == REPORT)
    return table, f'{total} runs of {sweep.iterations} iterations' + (
        f', about {_shown(hours)} GPU hours by the probe.' if timed
        else '; --probe 20 times a short training of each method and tells the GPU hours.')


def screen(folder: SweepFolder, decision: Decision, parallel: int, remark: str = '') -> RenderableType:
    """Return the picture of a sweep."""
    table = narrow_table(['method', 'stage', 'runs', f'best {folder.sweep.metric}\nat {", ".join(RATES)}'], ['of them'])
    for method, stage in dict.fromkeys((run.method, run.stage) for run in decision.runs):
        runs = [run for run in decision.runs if (run.method, run.stage) == (method, stage)]
        count = Counter(decision.look(run).state for run in runs)
        table.add_row(method, stage, str(len(runs)), _best(decision, runs),
                      ', '.join(f'{count[state]} {state}' for state in STATES if count[state]))
    lines: list[RenderableType] = [Text(str(folder.path), style='bold'), table]
    running = [run for run in decision.runs if decision.look(run).state == 'running']
    progress = {run.name: iterations_done(folder.run_folder(run).work_dir) for run in running}
    for run in running[:MOST_RUNNING]:
        lines.append(Text(f'  {progress[run.name]:>6} of {folder.sweep.iterations}  {run.name}'))
    if len(running) > MOST_RUNNING:
        lines.append(Text(f'  and {len(running) - MOST_RUNNING} more'))
    lines += [Text(f'{method} cannot go on: {reason}', style='red') for method, reason in decision.blocked.items()]
    failed = [run for run in decision.runs if decision.look(run).state == 'failed']
    lines += [Text(f'  why: {_reason(folder, run)}', style='red') for run in failed[:3]]
    lines.append(Text(_time_left(folder, decision, sum(progress.values()), parallel)))
    if remark:
        lines.append(Text(remark, style='yellow'))
    return Group(*lines)


class ChangeLog:
    """The sweep as lines of a log, one per change: for a file or a batch job, where a screen cannot move."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.before: dict[str, str] = {}

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


def narrow_table(whole: Sequence[str], wrapped: Sequence[str]) -> Table:
    """Return a table for 80 columns: cells of the first columns stay on one line, those of the others may wrap."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in whole:
        table.add_column(heading, no_wrap=True, justify='right' if heading in ('runs', 'GPU h') else 'left')
    for heading in wrapped:
        table.add_column(heading)
    return table


def _shown(hours: float) -> str:
    return f'{hours:.1f}' if hours >= 0.1 else f'{hours:.3f}'


def _reason(folder: SweepFolder, run: Run) -> str:
    """Return the log that tells why a run failed: the training's, or that of a job which did not come so far."""
    place = folder.run_folder(run)
    return str(place.log if place.log.exists() else folder.path / 'jobs' / f'{place.job()}_0_log.err')


def _best(decision: Decision, runs: list[Run]) -> str:
    """Return the best mean over the seeds so far, with its rates."""
    values: dict[tuple[float, float], list[float]] = {}
    for run in runs:
        if decision.look(run).value is not None:
            values.setdefault(run.rates, []).append(decision.look(run).value)
    mean, rates = max(((statistics.fmean(each), rates) for rates, each in values.items()), default=(None, None))
    return '' if mean is None else f'{mean:.2f} at {rates[0]:g}, {rates[1]:g}'


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
