"""Check a config before GPU hours are spent on it; exit status 1 on a problem.

    mmseg-daft doctor CONFIG [--cfg-options KEY=VALUE ...] [--gpus N] [--full]

Checks versions, data, weights, classes, batch, rates, schedule, hooks, the
conversion, one training forward and memory. It reads a sample of the data;
--full reads all of it, downloads weights and runs the full crop.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmseg_daft.doctor import environment
from mmseg_daft.doctor.finding import Examination, Finding, Verdict, skip
from mmseg_daft.options import add_cfg_options, at_least

COLORS = {Verdict.OK: 'green', Verdict.WARN: 'yellow', Verdict.FAIL: 'bold red', Verdict.SKIP: 'dim'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', type=Path)
    add_cfg_options(parser)
    parser.add_argument('--gpus', type=at_least(1), default=1, metavar='N',
                        help='how many GPUs the run will have (default: 1)')
    parser.add_argument('--full', action='store_true',
                        help='read every image and label, download weights, run the full crop')


def run(args: argparse.Namespace) -> int:
    """Examine the config, print the table, and return 1 if something would waste the run."""
    try:
        from mmseg_daft.console import make_console, quiet
    except ImportError:  # then nothing else works, either: name what is missing in plain lines
        exam = Examination()
        examine(args, exam)
        for finding in exam.findings:
            print(finding.check, finding.verdict.value, finding.found, finding.fix, sep=' | ')
    else:
        from rich.progress import BarColumn, Progress, TimeRemainingColumn

        console = make_console(file=sys.stdout)
        progress = Progress('{task.description}', BarColumn(), TimeRemainingColumn(), console=console, transient=True,
                            redirect_stdout=False, redirect_stderr=False)
        exam = Examination(progress)
        with progress if console.is_terminal else nullcontext(), quiet():
            examine(args, exam)
        _show(exam.findings, console)
    problems = sum(finding.verdict is Verdict.FAIL for finding in exam.findings)
    print(f'{problems} problem{"s" * (problems > 1)} would waste this run.' if problems else 'Ready.')
    return int(problems > 0)


def examine(args: argparse.Namespace, exam: Examination) -> None:
    """Run all checks, each on what the ones before it made."""
    bases = args.config.is_file() and 'mmseg::' in args.config.read_text(errors='replace')
    exam.check('versions', environment.check_versions, environment.installed_versions(), sys.version_info[:2], bases)
    exam.check('imports', environment.import_packages)
    cfg = None
    if not exam.failed('imports'):
        from mmseg_daft.doctor import data, training, weights
        from mmseg_daft.engine.configs import types_in
        from mmseg_daft.engine.samples import images_once

        cfg = exam.check('config', training.build_config, args.config, args.cfg_options)
    if cfg is None:
        exam.findings.append(skip('not checked, because of the problem above', check='the rest'))
        return
    exam.check('mmcv ops', environment.check_ops, set(types_in(cfg.model)), environment.has_compiled_ops())
    train = exam.check('train data', data.check_data, cfg, 'train_dataloader', args.full, exam.track)
    if cfg.get('val_dataloader'):
        exam.check('val data', data.check_data, cfg, 'val_dataloader', args.full, exam.track)
    model = exam.check('model', training.build_model, cfg)
    filled = exam.check('weights', weights.check_weights, cfg, model, args.full)
    exam.check('classes', training.check_classes, cfg, model)
    exam.check('batch', training.check_batch, cfg, args.gpus)
    optimizer = exam.check('rates', training.check_rates, cfg, model)
    exam.check('schedule', training.check_schedule, cfg, optimizer)
    exam.check('hooks', training.check_hooks, cfg)
    images = 0 if train is None else len(images_once(train))
    exam.check('conversion', training.check_conversion, cfg, model, images, filled)
    usable = False if train is None or exam.failed('train data', 'classes') else train
    forward = exam.check('training step', training.check_step, cfg, model, usable, args.full)
    exam.check('GPU memory', training.check_memory, cfg, model, optimizer, forward)


def _show(findings: Sequence[Finding], console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column('Check', no_wrap=True), Column(no_wrap=True), Column('Found', overflow='fold', ratio=1),
                  box=SIMPLE_HEAD, pad_edge=False)
    before = None
    for finding in findings:
        text = Text(finding.found)
        if finding.fix:
            text.append(f'\nFix: {finding.fix}', style='cyan')
        table.add_row('' if finding.check == before else finding.check,
                      Text(finding.verdict.value, style=COLORS[finding.verdict]), text)
        before = finding.check
    console.print(table)
