"""Which of several runs generalizes: mIoU on further test sets and under corruptions, and whether they differ.

    mmseg-daft evaluate CONFIG NAME=RUN [NAME=RUN ...] [--sets FILE [SET ...]]
        [--corruptions all|NAME ... [--severities 1-5]] [--reference NAME]

CONFIG is an mmseg config of the model and data, or MMPretrain's of a classifier: then the measure is accuracy, and the
further sets are its test_cfg.domains. RUN is a checkpoint or a run folder, of which the last checkpoint is taken; all
are of the config's model. They are run on the config's own test set, on the sets that FILE describes, and on the test
set under corruptions: all, noise, blur, weather, digital, cityscapes-c (SegFormer's protocol) or one by name.
For example

    C=deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768
    mmseg-daft evaluate configs/ft/ft_$C.py FT=work_dirs/ft_$C \\
        DAFT=work_dirs/daft_$C --sets cityscapes --corruptions all

writes report.html (one file, figures inside), numbers.csv (every number with its interval) and figures/. What has been
counted is kept in cells/: after an interruption, and with more runs, sets or corruptions, the same command goes on.
Several processes share the images, each on a GPU of its own:

    torchrun --nproc_per_node 2 -m mmseg_daft evaluate ... --launcher pytorch
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_daft.analysis.command import FORMATS
from mmseg_daft.options import add_cfg_options, at_least

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 6  # images on the report's sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('runs', metavar='NAME=RUN', nargs='+', help='a name, and a checkpoint or run folder')
    parser.add_argument('--sets', nargs='+', default=[], metavar=('FILE', 'SET'),
                        help='further test sets: a file, or the name of a shipped one; of them all, or these alone')
    parser.add_argument('--corruptions', nargs='+', default=[], metavar='NAME', help='of the own test set')
    parser.add_argument('--severities', nargs='+', type=_severities, default=[[1, 2, 3, 4, 5]], metavar='1-5',
                        help='of the corruptions: numbers or ranges (default: 1-5)')
    parser.add_argument('--reference', metavar='NAME', help='the run that others are compared with (default: first)')
    parser.add_argument('--out', type=Path, help='folder of the report (default: work_dirs/evaluate/CONFIG)')
    parser.add_argument('--cache', help='folder that keeps the corrupted images, as PNG files')
    parser.add_argument('--workers', type=at_least(0), default=4,
                        help='processes that load and corrupt images, for each GPU (default: 4)')
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=list(FORMATS), help='of the figures')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=('none', 'pytorch'), default='none')


def _severities(word: str) -> list[int]:
    """Return the severities that a word such as ``1-5`` or ``3`` stands for."""
    first, _, last = word.partition('-')
    try:
        found = list(range(int(first), int(last or first) + 1))
    except ValueError:
        found = []
    if not found or not {1, 2, 3, 4, 5} >= {*found}:
        raise argparse.ArgumentTypeError(f'give numbers from 1 to 5, such as 3 or 1-5, not {word!r}')
    return found


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    from mmseg_daft.console import make_console

    try:
        _evaluate(args, make_console())
    except ValueError as error:
        print(f'mmseg-daft evaluate: {error}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'mmseg-daft evaluate: {error}. What is finished is kept: mend that, and give the command again.',
              file=sys.stderr)
        return 1
    return 0


def _evaluate(args: argparse.Namespace, console: Console) -> None:
    import mmseg_daft

    mmseg_daft.register()
    from mmengine.dist import is_main_process

    from mmseg_daft.analysis.command import processes, read_runs
    from mmseg_daft.analysis.report import MADE_FROM, refuse_other_report
    from mmseg_daft.console import quiet
    from mmseg_daft.engine.configs import further_domains, is_classifier, read_config
    from mmseg_daft.evaluation.cells import open_cells
    from mmseg_daft.evaluation.corruptions import cells as pairs_of
    from mmseg_daft.evaluation.measure import evaluate, load_runs, show_images
    from mmseg_daft.evaluation.report import show_results, write_report
    from mmseg_daft.evaluation.results import Results
    from mmseg_daft.evaluation.sets import read_sets
    from mmseg_daft.files import refuse_unwritable, write_atomically

    runs = _reference_first(read_runs(args.runs), args.reference)
    with quiet():
        cfg = read_config(args.config, args.cfg_options, needs=('model', 'test_dataloader'))
        if args.sets and is_classifier(cfg):
            raise ValueError("--sets is for segmentation. A classifier's further sets are in its config: "
                             'test_cfg.domains, of which test_cfg.only names those to take.')
        further = (further_domains(cfg.get('test_cfg')) if is_classifier(cfg) else
                   read_sets(args.sets[0], args.sets[1:]) if args.sets else {})
    severities = sorted({severity for some in args.severities for severity in some})
    pairs = pairs_of(args.corruptions, severities) if args.corruptions else []
    out = args.out or Path('work_dirs', 'evaluate', args.config.stem)
    made_from = {'config': str(args.config.resolve()), 'cfg-options': args.cfg_options}
    for name in ('numbers.csv', 'report.html', 'figures/x.png', 'cells/x.gz'):
        refuse_unwritable(out / name)
    refuse_other_report(out, 'report.html', made_from)
    with processes(args.launcher, 'evaluate'):
        with quiet():
            loaded = load_runs(cfg, runs)
            data = open_cells(cfg, further, pairs, args.cache)
        models = {name: run.model for name, run in loaded.items()}
        files = evaluate(models, data.cells, data.classes, out / 'cells', cfg, args.workers, console)
        if not is_main_process():
            return
    results = Results(
        list(runs), data.classes, data.lacking, {cell.key[0]: cell.names() for cell in data.cells if not cell.key[1]},
        [cell.key for cell in data.cells], files,
        [f'Config {args.config.name}; {data.cells[0].images} images of its own test set.',
         *(f'{name}: {run.source}.' for name, run in loaded.items()), *data.remarks()], data.measure)
    shown = len(runs) > 1 and not is_classifier(cfg)
    scenes = show_images(results.image_table(_SHOWN), data, models, cfg) if shown else []
    write_atomically(out / MADE_FROM, made_from)  # first: a report that breaks off can be made again
    write_report(out, results, scenes, data.palette, args.formats, console)
    show_results(console, results)
    console.print(f'\nReport:  {out / "report.html"}\nNumbers: {out / "numbers.csv"}\nFigures: {out / "figures"}',
                  soft_wrap=True, markup=False)


def _reference_first(runs: Mapping[str, Path], reference: str | None) -> dict[str, Path]:
    """Return the runs with the reference before the others.

    Raises:
        ValueError: There is no run of its name.
    """
    if reference is None:
        return dict(runs)
    if reference not in runs:
        raise ValueError(f'--reference {reference}: no run has this name. Name one of {", ".join(runs)}.')
    return {reference: runs[reference], **runs}
