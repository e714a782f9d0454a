"""Write what a sweep found: runs.csv, table.md, table.tex, curves.png, commands.sh, missing.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from mmseg_daft.files import write_atomically
from mmseg_daft.run_output import iterations_done
from mmseg_daft.sweep.commands import again, commands
from mmseg_daft.sweep.curves import draw_curves
from mmseg_daft.sweep.decision import Seen
from mmseg_daft.sweep.executor import known_queue
from mmseg_daft.sweep.loop import observe, patience
from mmseg_daft.sweep.results import method_results, number, seeds, to_csv, to_latex, to_markdown
from mmseg_daft.sweep.run import REPORT, Run
from mmseg_daft.sweep.screen import state_of
from mmseg_daft.sweep.setup import Setup, run_folder


def write_results(setup: Setup, folder: Path, console: Console) -> list[str]:
    """Write all files into ``DIR/results`` and return what is missing."""
    decision, seen = observe(setup, folder, known_queue(), *patience(folder))
    rows = [row_of(setup, folder, run, seen[run.name]) for run in decision.runs]
    results, place, metric = method_results(rows), folder / 'results', setup.sweep.metric
    missing = [f'{row["name"]}: {row["state"]}, at iteration {row["iteration"]} of {row["iterations"]}' for row in rows
               if row['state'] not in ('done', 'diverged')]
    missing += [f'{row["name"]}: diverged, so its seed is not in the mean' for row in rows
                if row['stage'] == REPORT and row['state'] == 'diverged']
    missing += [f'{method}: not reported yet' for method in setup.sweep.order()
                if method not in {result.method for result in results}]
    note = (f'\n{metric} of the final model on the test set of each config, mean ± standard deviation over seeds; '
            f'rates selected on {setup.held_out:g} of the training images, held out.\n')
    if missing:
        note += '\n**Incomplete**: ' + '; '.join(missing) + '.\n'
    codes = sorted({code for row in rows if row['revision'] for code in row['revision'].split(', ')})
    if len(codes) > 1:
        note += f'\n**Mixed code**: these runs were trained with {", ".join(codes)}; runs.csv says which with which.\n'
        console.print(f'mixed code: {", ".join(codes)}', style='yellow', highlight=False, soft_wrap=True)
    write_atomically(place / 'runs.csv', to_csv(rows))
    write_atomically(place / 'table.md', to_markdown(results, metric) + note)
    write_atomically(place / 'table.tex', ''.join(f'% incomplete: {m}\n' for m in missing) + to_latex(results, metric))
    write_atomically(place / 'commands.sh', commands(rows))
    write_atomically(place / 'missing.txt', ''.join(f'{line}\n' for line in missing))
    draw_curves(rows, {key: run.rates for key, run in decision.winners.items()}, metric, place / 'curves.png')
    for result in results:
        console.print(f'{result.method:<18}{metric} {number(result, "±"):<16} seeds: {seeds(result)}, backbone_lr '
                      f'{result.rates[0]:g}, head_lr {result.rates[1]:g}', highlight=False, soft_wrap=True)
    for line in missing:
        console.print(f'missing: {line}', style='yellow', highlight=False, soft_wrap=True)
    console.print(f'Written to {place}: runs.csv, table.md, table.tex, curves.png, commands.sh, missing.txt',
                  soft_wrap=True)
    return missing


def row_of(setup: Setup, folder: Path, run: Run, seen: Seen) -> dict[str, Any]:
    """Return a run's row of ``runs.csv``."""
    place = run_folder(folder, run)
    described, result = place.description() or {}, place.result() or {}
    return dict(
        name=run.name, state=state_of(folder, run, seen), method=run.method, stage=run.stage,
        backbone_lr=run.backbone_lr, head_lr=run.head_lr, seed=run.seed, start=run.start.name if run.start else None,
        metric=setup.sweep.metric, value=result.get('value'), split='test' if run.stage == REPORT else 'held-out',
        iterations=setup.sweep.iterations, iteration=result.get('iteration') or iterations_done(place.work_dir),
        failures=place.failures(seen.active),
        gpu_hours=round(result['seconds'] * max(1, setup.gpus_per_run) / 3600, 4) if result else None,
        gpus=setup.gpus_per_run, host=result.get('host'), job=result.get('job'), revision=result.get('revision'),
        versions=json.dumps(result['versions']) if result else None, config=setup.configs[run.method],
        checkpoint=result.get('checkpoint'),
        command=again(described, result, run.name) if described else None)
