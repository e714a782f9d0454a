"""The paper's search for learning rates, from the plan to the table, on a Slurm
cluster or on this machine.

  mmseg-daft sweep plan    DIR --method ft=CONFIG --method daft=CONFIG
  mmseg-daft sweep run     DIR [--executor slurm --slurm partition=NAME …]
  mmseg-daft sweep status  DIR [--watch]
  mmseg-daft sweep collect DIR

Interrupted anywhere, `run` goes on where it was.

DAFT has two steps: ten values of backbone_lr with head_lr at 1.0, then four more
of head_lr with the backbone_lr that won; FT, LP and LP-FT have one. In the
authors' files (--search released) the first step has no conversion and batch norm
in eval mode; it tries four to six values per data set (--grids-of). The paper
does not say on which images its segmentation rates were selected, and VOC and
Cityscapes have only one public labeled split beside train. Here no reported
image selects: the runs of the steps train without a held-out tenth of the
training images, and the mIoU on that tenth selects. Then the rates that won train
on all training images, once per --report-seeds, and those runs alone are
evaluated on the config's test set. Always by the final model, as in the paper.

A classifier's rates are selected as in the paper, on the config's own validation
images; so is the epoch whose model counts. LP is mmseg-daft probe, without rates.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import mmseg_daft
from mmseg_daft.files import refuse_unwritable, write_atomically
from mmseg_daft.options import above, at_least
from mmseg_daft.sweep.folder import CODE, SweepFolder
from mmseg_daft.sweep.job import Executor, revision, slurm_queue
from mmseg_daft.sweep.protocol import DAFT_FIXED_HEAD, GRIDS, SEARCHES, STARTS, Decision, Sweep, protocols

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their arguments."""
    commands = parser.add_subparsers(dest='subcommand', metavar='plan|run|status|collect', required=True)
    here = {}
    for name, text in dict(plan='fix what is swept, and show it', run='train what is due, until all is done',
                           status='show how far the sweep is', collect='write table, curves and commands').items():
        here[name] = commands.add_parser(name, help=text, description=text.capitalize() + '.')
        here[name].add_argument('folder', metavar='DIR', type=Path, help='the sweep: all its files are in here')
    plan, run = here['plan'], here['run']
    plan.add_argument('--method', action='append', required=True, metavar='NAME=CONFIG', dest='methods',
                      help=f'one of {", ".join(protocols())}; repeat for several')
    plan.add_argument('--search', choices=SEARCHES, default='paper',
                      help="as the paper's text has it, or as the authors' files do (default: paper)")
    plan.add_argument('--start', choices=STARTS, default='moco', help="whose grids are used (default: moco's)")
    plan.add_argument('--grids-of', choices=GRIDS, default='paper', metavar='DATA',
                      help="the paper's text, or the authors' files for one of their data sets: "
                      f'{", ".join(GRIDS)} (default: paper)')
    plan.add_argument('--grid', action='append', default=[], metavar='NAME.STEP=RATE,…',
                      help='a grid of your own, for instance daft.2=1,0.3')
    seed, rate = at_least(0, 2**32 - 1), above(0)
    plan.add_argument('--fixed-head-lr', type=rate, default=DAFT_FIXED_HEAD, metavar='RATE',
                      help='head_lr in step 1 of two (default: 1.0)')
    plan.add_argument('--held-out', type=above(0, below=1), metavar='PART',
                      help="part of train that selects, not for classifiers (default: 0.1)")
    plan.add_argument('--held-out-by', choices=('image', 'folder', 'block'), default='',
                      help='which images are held out together (default: cities of Cityscapes, a stretch of a CamVid '
                      'recording, else single images)')
    plan.add_argument('--held-out-seed', type=at_least(0), metavar='N', help='selects the part (default: 0)')
    plan.add_argument('--select-seeds', type=seed, nargs='+', default=[0], metavar='N',
                      help='a rate counts by its mean over these (default: 0)')
    plan.add_argument('--report-seeds', type=seed, nargs='+', default=[0, 1, 2], metavar='N',
                      help='of the reported runs (default: 0 1 2)')
    plan.add_argument('--gpus-per-run', type=at_least(0), default=1, metavar='N',
                      help='of one machine; they share the batch. 0: the CPU (default: 1)')
    plan.add_argument('--metric', help='selects and is reported; larger is better (default: mIoU, for classifiers '
                      'accuracy/top1)')
    plan.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE', help='for all runs')
    plan.add_argument('--probe', type=at_least(1), default=0, metavar='N',
                      help='train each method for N iterations (or epochs, if configs count these) first, to estimate '
                      'the GPU hours')
    for command, title in ((plan, 'where the --probe trains, and the run that comes next'), (run, 'where it trains')):
        where = command.add_argument_group(title)
        where.add_argument('--executor', choices=('slurm', 'local', 'debug'),
                           help='Slurm arrays, processes here (default), or this process')
        where.add_argument('--parallel', type=at_least(1), metavar='N',
                           help='runs at a time, on Slurm of each array (default: 1; on Slurm 16)')
        where.add_argument('--hours', type=above(0),
                           help='Slurm: limit of a job; longer runs are requeued (default: 24)')
        where.add_argument('--slurm', type=_key_value, nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                           help="submitit's parameters: partition=…, cpus_per_task=…, account=…, setup=…")
    run.add_argument('--max-failures', type=at_least(0), default=2, metavar='N',
                     help='a run that failed more often is given up (default: 2)')
    run.add_argument('--accept-missing', action='store_true', help='go on without such runs; the table says so')
    run.add_argument('--interval', type=above(0), metavar='SECONDS',
                     help='between two looks at the folder (default: 2; on Slurm 15)')
    here['collect'].add_argument('--evaluation', type=Path, metavar='NUMBERS.csv',
                                 help="of mmseg-daft evaluate, with the sweep's names of runs: joins the tables")
    here['status'].add_argument('--watch', action='store_true', help='show it again every 5 seconds')


def _key_value(word: str) -> str:
    key, equals, _ = word.partition('=')
    if not (key and equals):
        raise argparse.ArgumentTypeError(f'write KEY=VALUE, such as partition=NAME, not {word!r}')
    return word


def run(args: argparse.Namespace) -> int:
    """Do what the subcommand says; return 1 where something is missing."""
    from mmseg_daft.console import make_console

    return {'plan': plan, 'run': train, 'status': status, 'collect': collect}[args.subcommand](args, make_console())


def plan(args: argparse.Namespace, console: Console) -> int:
    """Fix what is swept, and show it."""
    given = [word for name in ('executor', 'parallel', 'hours', 'slurm') if (value := getattr(args, name))
             for word in (f'--{name}', *map(str, value if isinstance(value, list) else [value]))]
    read_sweep(args, 0, '')  # what is misspelt is said at once
    executor = executor_of(args, args.gpus_per_run) if args.probe else None
    refuse_unwritable(args.folder / 'sweep.json')
    mmseg_daft.register()
    from rich.progress import Progress

    from mmseg_daft.console import quiet
    from mmseg_daft.sweep.plan import freeze, probe, read, shape_of
    from mmseg_daft.sweep.results import plan_table

    configs = dict(word.split('=', 1) for word in args.methods)
    first = next(iter(configs.values()))
    with quiet():
        shape = shape_of(first, read(first, args.cfg_options))
    sweep = read_sweep(args, shape.pop('iterations'), shape['validation'])
    held_out = 0 if shape['validation'] else args.held_out or 0.1
    folder = SweepFolder(args.folder, sweep, configs, held_out, args.held_out_by, args.held_out_seed or 0,
                         args.cfg_options, args.gpus_per_run, revision(CODE), str(Path.cwd()), **shape)
    if not (args.folder / 'sweep.json').is_file():  # which comes last: what cannot be swept leaves no sweep behind
        for part in ('configs', 'split'):
            shutil.rmtree(args.folder / part, ignore_errors=True)
        with quiet():
            freeze(folder)
    folder.save()
    if executor:
        with Progress(console=console) as progress:
            total = args.probe * sweep.iterations // folder.length[1]
            bars = {method: progress.add_task(f'probe of {method}', total=total) for method in configs}
            probe(folder, executor, args.probe, lambda method, done: progress.update(bars[method], completed=done))
    console.print(*plan_table(folder), sep='\n')
    console.print(f'Rates are selected on {folder.selected_on}.')
    words = shlex.join(['mmseg-daft', 'sweep', 'run', str(args.folder), *given])
    console.print(f'Next: {words}', markup=False, soft_wrap=True)
    return 0


def train(args: argparse.Namespace, console: Console) -> int:
    """Train what is due, until all is done; return 1 where something cannot go on."""
    from rich.live import Live

    from mmseg_daft.sweep.results import ChangeLog, screen

    folder = SweepFolder.load(args.folder)
    executor = executor_of(args, folder.gpus_per_run)
    with Live(console=console, auto_refresh=False) as live:
        def show(decision: Decision, remark: str = '') -> None:
            live.update(screen(folder, decision, executor.parallel, remark), refresh=True)

        try:
            decision = _run_sweep(args, folder, executor, show if console.is_terminal else ChangeLog(console))
            show(decision)
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
        console.print(f'Next: mmseg-daft sweep collect {args.folder}', markup=False, soft_wrap=True)
        return 0
    console.print('The sweep cannot go on: mend what failed and run again with a larger --max-failures'
                  + ('.' if args.accept_missing else ', or without it by --accept-missing.'))
    return 1


def _run_sweep(
    args: argparse.Namespace, folder: SweepFolder, executor: Executor, show: Callable[[Decision, str], None],
) -> Decision:
    """Start runs until the sweep is complete, or cannot go on; return the last decision."""
    interval = args.interval if args.interval is not None else 15 if args.executor == 'slurm' else 2
    refusals = 0
    with folder.locked():
        write_atomically(folder.path / 'patience.json', [args.max_failures, args.accept_missing])
        while True:
            queue = executor.in_queue()  # before the folders: what ends meanwhile has its result there
            decision = folder.look(queue, executor.kind)
            active = [run for run in decision.runs if decision.look(run).active]
            show(decision, 'Slurm does not answer: waiting for it' if queue is None else '')
            if decision.complete or not (decision.start or active):
                return decision
            free = len(decision.start) if executor.kind == 'slurm' else max(0, executor.parallel - len(active))
            due = [folder.describe(run) for run in decision.start[:free]] if queue is not None else []
            if due:
                try:
                    executor.submit(due)
                    refusals = 0
                except executor.submitit.core.utils.FailedJobError as error:
                    refusals += 1
                    if refusals == 3:
                        raise SystemExit(f'Slurm refuses the jobs: {error}') from error
            time.sleep(interval)


def status(args: argparse.Namespace, console: Console) -> int:
    """Show where the sweep stands."""
    from rich.live import Live

    from mmseg_daft.sweep.results import screen

    folder = SweepFolder.load(args.folder)

    def picture() -> RenderableType:
        queue = slurm_queue()
        decision = folder.look(queue)
        active = sum(seen.active for seen in decision.seen.values())
        remark = 'Slurm does not answer: what was submitted is shown as queued' if queue is None and active else ''
        return screen(folder, decision, max(1, active), remark)

    if not args.watch:
        console.print(picture())
        return 0
    with Live(picture(), console=console, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            time.sleep(5)
            live.update(picture(), refresh=True)
    return 0


def collect(args: argparse.Namespace, console: Console) -> int:
    """Write table, curves and commands; return 1 where something is missing."""
    from mmseg_daft.sweep.results import write_results

    return 1 if write_results(SweepFolder.load(args.folder), console, args.evaluation) else 0


def read_sweep(args: argparse.Namespace, iterations: int, validation: str) -> Sweep:
    """Return what the command line of ``plan`` describes; raise ``SystemExit`` where that cannot be swept.

    ``iterations`` and ``validation`` are what the configs say, as in ``SweepFolder``; the latter of a classifier.
    """
    if validation and (args.held_out or args.held_out_by or args.held_out_seed is not None):
        raise SystemExit("--held-out: a classifier's rates are selected on the validation images of its config, as in "
                         'the paper. Leave it out.')
    known = protocols(args.start, args.fixed_head_lr, args.search, args.grids_of, bool(validation))
    chosen, configs = {}, {}
    for word in args.methods:
        name, _, config = word.partition('=')
        if name not in known:
            raise SystemExit(f'--method {word}: no protocol for {name!r}. Name one of {", ".join(known)}.')
        if not config:
            raise SystemExit(f'--method {word}: write NAME=CONFIG.')
        if name in configs:
            raise SystemExit(f'--method {name} is named twice: {configs[name]} and {config}. Keep one of them.')
        configs[name], chosen[name] = config, known[name]
    asked = protocols(args.start, args.fixed_head_lr, grids=args.grids_of)
    if args.search != 'paper' and all(known[name] == asked[name] for name in chosen):
        others = [name for name in known if known[name] != asked[name]]
        raise SystemExit(f'--search {args.search} searches {", ".join(others)} in another way, and none of them is a '
                         '--method: leave it out, or name one.')
    for word in args.grid:
        place, _, values = word.partition('=')
        name, _, number = place.partition('.')
        steps = list(chosen[name].steps) if name in chosen else []
        if steps and chosen[name].is_probe:
            raise SystemExit(f'--grid {word}: LP of a classifier is a logistic regression, which has no rate. Leave it '
                             'out.')
        if number not in map(str, range(1, len(steps) + 1)):
            raise SystemExit(f'--grid {word}: write NAME.STEP=RATE,… of a --method, such as ft.1=0.1,0.01')
        index = int(number) - 1
        if sum(other.startswith(f'{place}=') for other in args.grid) > 1:
            raise SystemExit(f'--grid {place} is given twice. Keep one of them.')
        try:
            rates = tuple(map(above(0), values.split(',')))
        except argparse.ArgumentTypeError as error:
            raise SystemExit(f'--grid {word}: {error}. Write rates with commas between: ft.1=0.1,0.01') from None
        steps[index] = dataclasses.replace(steps[index], grid=rates)
        chosen[name] = dataclasses.replace(chosen[name], steps=tuple(steps))
    try:
        return Sweep(chosen, tuple(args.select_seeds), tuple(args.report_seeds),
                     args.metric or ('accuracy/top1' if validation else 'mIoU'), iterations)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def executor_of(args: argparse.Namespace, gpus_per_run: int) -> Executor:
    """Return what the command line says will train."""
    options = {}
    for word in args.slurm:
        key, _, value = word.partition('=')
        options[key] = value
        with suppress(ValueError, SyntaxError):
            options[key] = ast.literal_eval(value)
    kind = args.executor or 'local'
    parallel = args.parallel or (16 if kind == 'slurm' else 1)
    return Executor(kind, args.folder.resolve() / 'jobs', parallel, gpus_per_run, args.hours or 24, options)
