"""Check a config before GPU hours are spent on it: one screen, and exit status 1 if the run would be wasted.

    python tools/doctor.py CONFIG [--cfg-options KEY=VALUE ...] [--gpus N] [--full]

Looks at versions, data, pre-trained weights, classes, batch, rates, conversion, one training forward and memory.
A sample of the data is read; --full reads all of it, downloads weights and runs the full crop.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmseg_daft.doctor.finding import Examination, Finding, Problem, Verdict, describe
from mmseg_daft.doctor.quiet import quiet
from mmseg_daft.doctor.versions import check_ops, check_versions, has_compiled_ops, installed_versions

COLOURS = {Verdict.OK: 'green', Verdict.WARN: 'yellow', Verdict.FAIL: 'bold red', Verdict.SKIP: 'dim'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='as of tools/train.py')
    parser.add_argument('--gpus', type=int, default=1, help='how many the run will have')
    parser.add_argument('--full', action='store_true', help='read every image and label, download weights, full crop')
    return parser.parse_args(argv)


def examine(args: argparse.Namespace, exam: Examination) -> None:
    """Run all checks, each on what those before it made."""
    bases = args.config.is_file() and 'mmseg::' in args.config.read_text(errors='replace')
    exam.check('versions', check_versions, installed_versions(), sys.version_info[:2], bases)
    if exam.obtain('imports', import_packages) is None:
        exam.findings.append(Finding('the rest', Verdict.SKIP, 'not checked, because of the problem above'))
        return
    # Not before: they import torch and mmseg.
    from mmseg_daft.doctor.config import build_model, read_config
    from mmseg_daft.doctor.data import build_dataset, check_dataset
    from mmseg_daft.doctor.memory import check_memory, check_step, training_step
    from mmseg_daft.doctor.training import (
        build_optimizer,
        check_batch,
        check_classes,
        check_conversion,
        check_hooks,
        check_pass,
        check_rates,
        model_types,
    )
    from mmseg_daft.doctor.weights import check_weights

    cfg = exam.obtain('config', read_config, args.config, args.cfg_options)
    if cfg is None:
        exam.findings.append(Finding('the rest', Verdict.SKIP, 'not checked, because of the problem above'))
        return
    exam.check('mmcv ops', check_ops, model_types(cfg), has_compiled_ops())
    train = exam.obtain('train data', build_dataset, cfg, 'train_dataloader')
    exam.check('train data', lambda data: check_dataset('train data', data, args.full, exam.progress), train)
    if cfg.get('val_dataloader'):
        val = exam.obtain('val data', build_dataset, cfg, 'val_dataloader')
        exam.check('val data', lambda data: check_dataset('val data', data, args.full, exam.progress), val)
    model = exam.obtain('model', build_model, cfg)
    exam.check('weights', check_weights, cfg, model, args.full)
    exam.check('classes', check_classes, cfg, model)
    exam.check('batch', check_batch, cfg, args.gpus)
    optimizer = exam.obtain('rates', build_optimizer, cfg, model)
    exam.check('rates', check_rates, cfg, optimizer)
    exam.check('hooks', check_hooks, cfg)
    exam.check('conversion', check_conversion, cfg, model)
    if train is not None:
        exam.check('conversion', check_pass, cfg, train)
    usable = train if not exam.failed('train data', 'classes') else False
    step = exam.obtain('training step', training_step, cfg, model, usable, args.full)
    exam.check('training step', check_step, step)
    exam.check('GPU memory', check_memory, cfg, model, optimizer and optimizer.optimizer, step)


def import_packages() -> bool:
    """Import what the run needs.

    Raises:
        Problem: One cannot be imported.
    """
    try:
        import mmseg_daft  # noqa: F401  it imports mmseg, after its repairs
    except Exception as error:
        raise Problem(f'mmseg_daft and mmseg cannot be imported. {describe(error)}',
                      "Install what is named above or here; pip install -e '.[lite]' in this folder.") from error
    return True


def show(findings: list[Finding], console: Any) -> None:
    """Print the table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column('Check', no_wrap=True)
    table.add_column('', no_wrap=True)
    table.add_column('Found', overflow='fold', ratio=1)
    before = None
    for finding in findings:
        text = Text(finding.found)
        if finding.fix:
            text.append(f'\nFix: {finding.fix}', style='cyan')
        table.add_row('' if finding.check == before else finding.check,
                      Text(finding.verdict.value, style=COLOURS[finding.verdict]), text)
        before = finding.check
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """Examine, print and return the exit status."""
    args = parse_args(argv)
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TimeRemainingColumn
    except ImportError:  # then nothing else works, either: say what is missing, plainly
        exam = Examination()
        examine(args, exam)
        for finding in exam.findings:
            print(finding.check, finding.verdict.value, finding.found, finding.fix, sep=' | ')
    else:
        console = Console(file=sys.stdout)
        if not console.is_terminal and 'COLUMNS' not in os.environ:
            console.width = 120
        columns = ('{task.description}', BarColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        exam = Examination(progress)
        with progress if console.is_terminal else nullcontext(), quiet():
            examine(args, exam)
        show(exam.findings, console)
    if not exam.problems:
        print('Ready.')
        return 0
    print(f'{exam.problems} problem{"s" * (exam.problems > 1)} would waste this run.')
    return 1


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit('Interrupted: nothing was decided.')
