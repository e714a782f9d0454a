"""The paper's search for learning rates, from the plan to the table, on a Slurm cluster or on this machine.

    python tools/sweep.py plan    DIR --method lp=CONFIG --method ft=CONFIG --method lpft=CONFIG --method daft=CONFIG
    python tools/sweep.py run     DIR [--executor slurm --slurm partition=NAME …]
    python tools/sweep.py collect DIR

and meanwhile `python tools/sweep.py status DIR [--watch]`. Interrupted anywhere, `run` goes on where it was.

DAFT has two steps: ten values of backbone_lr with head_lr at 1.0, then four more of head_lr with the backbone_lr that
won; FT, LP and LP-FT have one. The paper does not say on which images its segmentation rates were selected, and VOC and
Cityscapes have but one public labelled split beside train. Here no reported image selects: the runs of the steps
train without a held-out tenth of the training images, and the mIoU on that tenth selects; then the rates that won
train on all training images, once per --report-seeds, and those runs alone are evaluated on the config's test set.
Always by the final model, as the paper does.
"""

from __future__ import annotations

import argparse
import ast
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from mmseg_daft.sweep.decision import decide
from mmseg_daft.sweep.held_out import BY
from mmseg_daft.sweep.plan import by_method, read_sweep
from mmseg_daft.sweep.protocol import LPFT_GRIDS, protocols
from mmseg_daft.sweep.revision import revision


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    here = {name: commands.add_parser(name, help=text) for name, text in dict(
        plan='fix what is swept, and show it', run='train what is due, until all is', status='where it stands',
        collect='write table, curves and commands').items()}
    for command in here.values():
        command.add_argument('folder', metavar='DIR', type=Path, help='the sweep: all its files are in here')
    plan = here['plan']
    plan.add_argument('--method', action='append', required=True, metavar='NAME=CONFIG', dest='methods',
                      help=f'one of {", ".join(protocols())}; repeat for several')
    plan.add_argument('--start', choices=LPFT_GRIDS, default='moco', help="whose grid LP-FT has (default: moco's)")
    plan.add_argument('--grid', action='append', default=[], metavar='NAME.STEP=RATE,…',
                      help="another grid than the paper's, for instance daft.2=1,0.3")
    plan.add_argument('--fixed-head-lr', type=float, default=1.0, help='head_lr in step 1 of two (default: 1.0)')
    plan.add_argument('--held-out', type=float, default=0.1, help='part of train that selects (default: 0.1)')
    plan.add_argument('--held-out-by', choices=BY, default='', help='what of it stays together (default: cities of '
                      'Cityscapes, a stretch of a CamVid recording, else single images)')
    plan.add_argument('--held-out-seed', type=int, default=0)
    plan.add_argument('--select-seeds', type=int, nargs='+', default=[0], help='a rate counts by its mean over these')
    plan.add_argument('--report-seeds', type=int, nargs='+', default=[0, 1, 2])
    plan.add_argument('--gpus-per-run', type=int, default=1, help='of one machine; they share the batch. 0: the CPU')
    plan.add_argument('--metric', default='mIoU', help='selects and is reported; larger is better (default: mIoU)')
    plan.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE', help='for all runs')
    plan.add_argument('--probe', type=int, default=0, metavar='N', help='time N iterations of each method; GPU hours')
    for command in (plan, here['run']):
        command.add_argument('--executor', choices=('slurm', 'local', 'debug'), default='local',
                             help='Slurm arrays, processes here (default), or this process')
        command.add_argument('--parallel', type=int, default=None, help='runs at a time (default: 1; on Slurm 16)')
        command.add_argument('--hours', type=float, default=24, help='Slurm: limit of a job; longer runs are requeued')
        command.add_argument('--slurm', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                             help="submitit's parameters: partition=…, cpus_per_task=…, account=…, setup=…")
    run = here['run']
    run.add_argument('--max-failures', type=int, default=2, help='a run that failed more often stays so (default: 2)')
    run.add_argument('--accept-missing', action='store_true', help='go on without such runs; the table says so')
    run.add_argument('--interval', type=float, default=None, help='seconds between two looks (default: 2; on Slurm 15)')
    here['status'].add_argument('--watch', action='store_true', help='again and again')
    return parser.parse_args()


def plan(args: argparse.Namespace, console: Console) -> int:
    """Fix what is swept, and show it."""
    configs = by_method(args.methods)
    read_sweep(args, 0)  # what is misspelt is said at once
    from mmseg_daft.sweep.configs import freeze, iterations_of, read  # mmseg is slow to import
    from mmseg_daft.sweep.probe import plan_table, probe
    from mmseg_daft.sweep.setup import TOOLS, Setup

    first = next(iter(configs.values()))
    iterations = iterations_of(read(first, args.cfg_options), first)
    setup = Setup(read_sweep(args, iterations), configs, args.held_out, args.held_out_by, args.held_out_seed,
                  args.cfg_options, args.gpus_per_run, revision(TOOLS), str(Path.cwd()))
    if not (args.folder / 'sweep.json').is_file():  # which comes last: what cannot be swept leaves no sweep behind
        for part in ('configs', 'split'):
            shutil.rmtree(args.folder / part, ignore_errors=True)
        setup.check_folder(args.folder)
        freeze(setup, args.folder)
    setup.save(args.folder)
    decision = decide(setup.sweep, {})
    if args.probe:
        runs = {method: next((run for run in decision.runs if run.method == method), None) or first_run(setup, method)
                for method in setup.sweep.order()}
        with console.status(f'Training each method for {args.probe} iterations'):
            probe(setup, args.folder, executor_of(args, setup), runs, args.probe)
    table, line = plan_table(setup, args.folder, decision)
    console.print(table)
    console.print(line, f'Next: python tools/sweep.py run {args.folder}', sep='\n', soft_wrap=True)
    return 0


def first_run(setup: Any, method: str) -> Any:
    """Return the first run of a method that waits for another one."""
    from mmseg_daft.sweep.run import Run

    protocol = setup.sweep.methods[method]
    rates = {**protocol.fixed, **dict.fromkeys(protocol.steps[0].rates, protocol.steps[0].grid[0])}
    return Run(method, 'step1', rates['backbone_lr'], rates['head_lr'], setup.sweep.select_seeds[0])


def executor_of(args: argparse.Namespace, setup: Any) -> Any:
    """Return what the command line says will train."""
    from mmseg_daft.sweep.executor import Executor

    options = {}
    for word in args.slurm:
        key, _, value = word.partition('=')
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    parallel = args.parallel or (16 if args.executor == 'slurm' else 1)
    return Executor(args.executor, args.folder.resolve() / 'jobs', parallel, setup.gpus_per_run, args.hours, options)


def run(args: argparse.Namespace, console: Console) -> int:
    """Train what is due, until all is; return 1 where something cannot go on."""
    from mmseg_daft.sweep.loop import run_sweep
    from mmseg_daft.sweep.screen import ChangeLog, screen
    from mmseg_daft.sweep.setup import Setup

    setup = Setup.load(args.folder)
    executor = executor_of(args, setup)
    interval = args.interval if args.interval is not None else 15 if args.executor == 'slurm' else 2
    with Live(console=console, auto_refresh=False) as live:
        def show(decision: Any, seen: Any, remark: str) -> None:
            live.update(screen(setup, args.folder, decision, seen, executor.parallel, remark), refresh=True)

        log = ChangeLog(args.folder, console)
        try:
            decision, seen = run_sweep(setup, args.folder, executor, args.max_failures, args.accept_missing, interval,
                                       show if console.is_terminal else log)
            show(decision, seen, '')
        except KeyboardInterrupt:
            live.stop()
            console.print('Interrupted. What is on the cluster goes on.' if args.executor == 'slurm' else
                          'Interrupted: the runs here save a checkpoint and end.')
            executor.interrupt()
            console.print('The same command goes on from here.')
            return 130
    if not console.is_terminal:
        console.print()  # the last picture ends without one
    if decision.complete:
        console.print(f'Next: python tools/sweep.py collect {args.folder}', soft_wrap=True)
        return 0
    console.print('The sweep cannot go on: mend what failed and run again with a larger --max-failures, or without it '
                  'by --accept-missing.')
    return 1


def status(args: argparse.Namespace, console: Console) -> int:
    """Show where the sweep stands."""
    from mmseg_daft.sweep.executor import known_queue
    from mmseg_daft.sweep.loop import observe, patience
    from mmseg_daft.sweep.screen import screen
    from mmseg_daft.sweep.setup import Setup

    setup = Setup.load(args.folder)

    def picture() -> Any:
        queue = known_queue()
        decision, seen = observe(setup, args.folder, queue, *patience(args.folder))
        waiting = queue is None and any(s.active for s in seen.values())
        remark = 'Slurm does not answer: what was submitted is shown as queued' if waiting else ''
        return screen(setup, args.folder, decision, seen, max(1, sum(s.active for s in seen.values())), remark)

    if not args.watch:
        console.print(picture())
        return 0
    with Live(picture(), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(5)
                live.update(picture(), refresh=True)
        except KeyboardInterrupt:
            return 0


def collect(args: argparse.Namespace, console: Console) -> int:
    """Write table, curves and commands; return 1 where something is missing."""
    from mmseg_daft.sweep.setup import Setup
    from mmseg_daft.sweep.write_results import write_results

    missing = write_results(Setup.load(args.folder), args.folder, console)
    return 1 if missing else 0


def main() -> None:
    """Do what the command line says."""
    args = parse_args()
    raise SystemExit(globals()[args.command](args, Console()))


if __name__ == '__main__':
    main()
