"""What a sweep will cost, from a short real training of each method."""

from __future__ import annotations

import time
from pathlib import Path

from rich.table import Table

from mmseg_daft.files import read_json, write_atomically
from mmseg_daft.run_output import final_checkpoint
from mmseg_daft.sweep.decision import Decision
from mmseg_daft.sweep.executor import Executor
from mmseg_daft.sweep.run import REPORT, Run
from mmseg_daft.sweep.run_folder import RunFolder
from mmseg_daft.sweep.setup import Setup, command_of


def probe(setup: Setup, folder: Path, executor: Executor, runs: dict[str, Run], iterations: int) -> None:
    """Train each method for a few iterations, with its conversion and its validation, and write ``probe.json``.

    Args:
        setup: What is swept.
        folder: The sweep's.
        executor: Trains.
        runs: One run of each method, those that others start from first.
        iterations: How many.

    Raises:
        SystemExit: A training failed.
    """
    results: dict[str, dict[str, float]] = {}
    places: dict[str, RunFolder] = {}
    for method, run in runs.items():
        place = places[method] = RunFolder(folder.resolve() / 'probe' / f'{method}-{iterations}')
        base = setup.sweep.methods[method].starts_from
        start = final_checkpoint(places[base].work_dir, iterations) if base else None
        command = command_of(setup, folder, run, start)
        command[command.index('--work-dir') + 1] = str(place.work_dir)
        command += [f'train_cfg.max_iters={iterations}', f'train_cfg.val_interval={iterations}',
                    f'default_hooks.checkpoint.interval={iterations}', 'default_hooks.logger.interval=1']
        place.describe(dict(command=command, test_command=[], iterations=iterations, metric=setup.sweep.metric,
                            directory=setup.directory))
        if place.result() is None:
            executor.submit([place])
        while (result := place.result()) is None:
            queue = executor.in_queue()
            if queue is not None and place.job() not in queue and not place.is_locked() and place.result() is None:
                raise SystemExit(f'The probe of {method} failed; see {place.log}')
            time.sleep(0.5)
        if result['diverged']:
            raise SystemExit(f'The probe of {method} diverged; see {place.log}')
        seconds = result['seconds_per_iteration']
        results[method] = dict(seconds_per_iteration=seconds, iterations=iterations,
                               seconds_around=max(0.0, result['seconds'] - iterations * seconds))
    write_atomically(folder / 'probe.json', results)


def plan_table(setup: Setup, folder: Path, decision: Decision) -> tuple[Table, str]:
    """Return the table of all runs by method and stage, and a line on their sum."""
    timed = read_json(folder / 'probe.json') or {}
    table = Table(title=f'{folder}: what will be run', title_style='bold')
    for heading in ('method', 'stage', 'backbone_lr', 'head_lr', 'seeds', 'runs', 'GPU hours'):
        table.add_column(heading, justify='right' if heading in ('runs', 'GPU hours') else 'left')
    total, hours = 0, 0.0
    for method in setup.sweep.order():
        protocol = setup.sweep.methods[method]
        rates = {rate: f'{value:g}' for rate, value in protocol.fixed.items()}
        for number, step in enumerate(protocol.steps, start=1):
            swept = {rate: ', '.join(f'{value:g}' for value in step.grid) for rate in step.rates}
            if len(step.rates) == 2:
                swept['head_lr'] = 'the same'
            runs = len(step.grid) * len(setup.sweep.select_seeds)
            cost = _hours(setup, timed.get(method), runs)
            table.add_row(method, f'step{number}', *({**rates, **swept}[r] for r in ('backbone_lr', 'head_lr')),
                          ', '.join(map(str, setup.sweep.select_seeds)), str(runs), _shown(cost))
            rates.update(dict.fromkeys(step.rates, f'best of step{number}'))
            total, hours = total + runs, hours + (cost or 0)
        runs = len(setup.sweep.report_seeds)
        cost = _hours(setup, timed.get(method), runs)
        table.add_row(method, REPORT, rates['backbone_lr'], rates['head_lr'],
                      ', '.join(map(str, setup.sweep.report_seeds)), str(runs), _shown(cost), end_section=True)
        total, hours = total + runs, hours + (cost or 0)
    line = f'{total} runs of {setup.sweep.iterations} iterations'
    line += (f', about {_shown(hours)} GPU hours by the probe.' if timed
             else '; --probe 20 times a short training of each method and tells the GPU hours.')
    return table, line


def _hours(setup: Setup, timed: dict[str, float] | None, runs: int) -> float | None:
    if timed is None:
        return None
    seconds = timed['seconds_around'] + setup.sweep.iterations * timed['seconds_per_iteration']
    return runs * seconds * max(1, setup.gpus_per_run) / 3600


def _shown(hours: float | None) -> str:
    return '' if hours is None else f'{hours:.1f}' if hours >= 0.1 else f'{hours:.3f}'
