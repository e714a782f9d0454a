"""The sweep on one screen: what runs, what waits, what is best, how long it will take."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmseg_daft.files import read_json
from mmseg_daft.run_output import iterations_done, seconds_per_iteration
from mmseg_daft.sweep.decision import Decision, Seen
from mmseg_daft.sweep.run import Run
from mmseg_daft.sweep.setup import Setup, run_folder

MOST_RUNNING = 8
STATES = ('done', 'running', 'queued', 'to start', 'diverged', 'failed')


def screen(
    setup: Setup, folder: Path, decision: Decision, seen: dict[str, Seen], parallel: int, remark: str = '',
) -> RenderableType:
    """Return the picture of a sweep."""
    states = {run.name: state_of(folder, run, seen[run.name]) for run in decision.runs}
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ('method', 'stage', 'runs', 'of them', f'best {setup.sweep.metric} so far, at rates'):
        table.add_column(heading, justify='right' if heading == 'runs' else 'left')
    for method, stage in dict.fromkeys((run.method, run.stage) for run in decision.runs):
        runs = [run for run in decision.runs if (run.method, run.stage) == (method, stage)]
        count = Counter(states[run.name] for run in runs)
        table.add_row(method, stage, str(len(runs)), ', '.join(f'{count[s]} {s}' for s in STATES if count[s]),
                      _best(runs, seen))
    lines: list[RenderableType] = [Text(str(folder), style='bold'), table]
    running = [run for run in decision.runs if states[run.name] == 'running']
    progress = {run.name: iterations_done(run_folder(folder, run).work_dir) for run in running}
    for run in running[:MOST_RUNNING]:
        lines.append(Text(f'  {progress[run.name]:>6} of {setup.sweep.iterations}  {run.name}'))
    if len(running) > MOST_RUNNING:
        lines.append(Text(f'  and {len(running) - MOST_RUNNING} more'))
    for method, reason in decision.blocked.items():
        lines.append(Text(f'{method} cannot go on: {reason}', style='red'))
    failed = [run for run in decision.runs if states[run.name] == 'failed']
    lines += [Text(f'  why: {_reason(folder, run)}', style='red') for run in failed[:3]]
    lines.append(Text(_time_left(setup, folder, decision, seen, progress, parallel)))
    if remark:
        lines.append(Text(remark, style='yellow'))
    return Group(*lines)


class ChangeLog:
    """The sweep as lines of a log, one per change: for a file or a batch job, where a screen cannot move."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.before: dict[str, str] = {}

    def __call__(self, decision: Decision, seen: dict[str, Seen], remark: str) -> None:
        """Print what has changed."""
        now = {run.name: state_of(self.folder, run, seen[run.name]) for run in decision.runs}
        values = {name: '' if state.value is None else f' {state.value:.2f}' for name, state in seen.items()}
        now.update({f'{method} cannot go on': reason for method, reason in decision.blocked.items()})
        now.update({'note': remark} if remark else {})
        for name, state in now.items():
            if self.before.get(name) != state:
                self.console.print(f'{time.strftime("%H:%M:%S")} {name}: {state}{values.get(name, "")}',
                                   highlight=False, soft_wrap=True)
        self.before = now


def state_of(folder: Path, run: Run, seen: Seen) -> str:
    """Return a run's state in one word."""
    if seen.ended:
        return 'diverged' if seen.diverged else 'done'
    if seen.active:
        return 'running' if run_folder(folder, run).is_locked() else 'queued'
    return 'failed' if seen.failures else 'to start'


def _reason(folder: Path, run: Run) -> Path:
    """Return the log that tells why a run failed: the training's, or that of a job which did not come so far."""
    place = run_folder(folder, run)
    return place.log if place.log.exists() else folder / 'jobs' / f'{place.job()}_0_log.err'


def _best(runs: list[Run], seen: dict[str, Seen]) -> str:
    """Return the best mean over seeds so far, with its rates."""
    values: dict[tuple[float, float], list[float]] = {}
    for run in runs:
        if seen[run.name].value is not None:
            values.setdefault(run.rates, []).append(seen[run.name].value)
    if not values:
        return ''
    best = max(values, key=lambda rates: statistics.fmean(values[rates]))
    return f'{statistics.fmean(values[best]):.2f} at {best[0]:g}, {best[1]:g}'


def speed(folder: Path, runs: list[Run]) -> float | None:
    """Return seconds per iteration: the median over runs that have some, else the probe's."""
    known = [place.result()['seconds_per_iteration'] if place.result() else seconds_per_iteration(place.work_dir)
             for place in (run_folder(folder, run) for run in runs)]
    known = [value for value in known if value]
    probe = read_json(folder / 'probe.json')
    return statistics.median(known) if known else statistics.fmean(
        p['seconds_per_iteration'] for p in probe.values()) if probe else None


def _time_left(
    setup: Setup, folder: Path, decision: Decision, seen: dict[str, Seen], progress: dict[str, int], parallel: int,
) -> str:
    open_runs = [run for run in decision.runs if not seen[run.name].ended]
    if decision.complete:
        return 'Complete.'
    text = f'{len(open_runs)} runs to go'
    if decision.to_come:
        text += f', and {decision.to_come} whose rates are yet to be found'
    seconds = speed(folder, decision.runs)
    if seconds is None:
        return f'{text}.'
    iterations = sum(setup.sweep.iterations - progress.get(run.name, 0) for run in open_runs)
    iterations += decision.to_come * setup.sweep.iterations
    hours = iterations * seconds / max(1, parallel) / 3600
    return f'{text}; about {hours:.1f} h of training left, {parallel} at a time.'
