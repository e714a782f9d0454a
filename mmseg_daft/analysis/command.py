"""What fine-tuning did to a model: the paper's figures of feature distortion.

    mmseg-daft analyze CONFIG NAME=RUN [NAME=RUN ...] [--pretrained CHECKPOINT]

CONFIG is an mmseg config of the model and data, or MMPretrain's of a
classifier. RUN is a checkpoint or a run folder, of which the last checkpoint
is taken; all are of the config's model. The pre-trained model is what the
config starts from (init_cfg, load_from), or --pretrained. For example

    C=deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513
    mmseg-daft analyze configs/ft/ft_$C.py FT=work_dirs/ft_$C \\
        DAFT=work_dirs/daft_$C

writes report.html (one file, figures inside), numbers.csv (every number) and
figures/. Several processes share the images, also without a GPU:

    torchrun --nproc_per_node 2 -m mmseg_daft analyze ... --launcher pytorch

Over several analyses of the same methods, such as one for each seed, mean and
standard deviation of each one's medians and CKA; --out is a CSV file then:

    mmseg-daft analyze NUMBERS.csv NUMBERS.csv [...] [--out AVERAGE.csv]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_daft.options import add_cfg_options, at_least

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ('png', 'pdf', 'svg')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('runs', metavar='NAME=RUN', nargs='+', help='a name, and a checkpoint or run folder')
    parser.add_argument('--pretrained', type=Path, help='checkpoint of the pre-trained model (default: the config\'s)')
    parser.add_argument('--out', type=Path, help='folder of the report (default: work_dirs/analyze/CONFIG)')
    parser.add_argument('--stages', nargs='+', default=['all'], help='of the backbone, such as 1 4 (default: all)')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='test', help='default: test')
    parser.add_argument('--images', type=at_least(1), help='only so many, evenly spread over the split')
    parser.add_argument('--batch-size', type=at_least(1), default=1, help='images of one size at once (default: 1)')
    parser.add_argument('--workers', type=at_least(0), default=2, help='processes that load images (default: 2)')
    parser.add_argument('--amp', action='store_true', help='half precision; bfloat16 on a CPU')
    parser.add_argument('--no-sheets', dest='sheets', action='store_false',
                        help='leave out the least and most distorted images')
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=list(FORMATS), help='of the figures')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=('none', 'pytorch'), default='none')


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    from mmseg_daft.console import make_console

    try:
        if args.config.suffix == '.csv':
            _average([args.config, *map(Path, args.runs)], args.out, make_console())
        else:
            _analyze(args, make_console())
    except (ValueError, OSError) as error:
        print(f'mmseg-daft analyze: {error}', file=sys.stderr)
        return 1
    return 0


def _average(paths: Sequence[Path], out: Path | None, console: Console) -> None:
    from mmseg_daft.analysis.report import KEYS, average, write_csv
    from mmseg_daft.console import print_table

    rows = average(paths)
    print_table(console, f'Over {len(paths)} analyses', (*KEYS, 'mean ± std'), [
        [*(str(row[key]) for key in KEYS), f'{row["mean"]:.3f} ± {row["standard_deviation"]:.3f}'] for row in rows],
        texts=4)
    if out:
        write_csv(out, list(rows[0]), [
            {key: f'{value:.6g}' if isinstance(value, float) else value for key, value in row.items()} for row in rows])


def _analyze(args: argparse.Namespace, console: Console) -> None:
    import mmseg_daft

    mmseg_daft.register()
    from mmseg_daft.analysis.measure import measure
    from mmseg_daft.analysis.report import MADE_FROM, refuse_other_report, show_findings, write_report
    from mmseg_daft.console import quiet
    from mmseg_daft.engine.configs import read_config
    from mmseg_daft.files import refuse_unwritable, write_atomically

    runs = read_runs(args.runs)
    with quiet():
        cfg = read_config(args.config, args.cfg_options, needs=('model',))
    out = args.out or Path('work_dirs', 'analyze', args.config.stem)
    made_from = {
        'config': str(args.config.resolve()), 'runs': {name: str(path.resolve()) for name, path in runs.items()},
        'pretrained': args.pretrained and str(args.pretrained.resolve()), 'split': args.split,
        'cfg-options': args.cfg_options}
    for name in ('numbers.csv', 'report.html', 'figures/x.png'):
        refuse_unwritable(out / name)
    refuse_other_report(out, 'report.html', made_from)
    with processes(args.launcher, 'analyze'):
        findings = measure(
            cfg, runs, pretrained=args.pretrained, stages=args.stages, split=args.split, images=args.images,
            batch_size=args.batch_size, workers=args.workers, amp=args.amp, sheets=args.sheets, console=console)
    if findings is not None:
        write_atomically(out / MADE_FROM, made_from)  # first: a report that breaks off can be made again
        write_report(out, findings, args.formats, console)
        show_findings(console, findings)
        console.print(f'\nReport:  {out / "report.html"}\nNumbers: {out / "numbers.csv"}\nFigures: {out / "figures"}',
                      soft_wrap=True, markup=False)


def read_runs(words: Sequence[str]) -> dict[str, Path]:
    """Return paths by method; no two methods may share a name, nor the names of their figures' files."""
    from mmseg_daft.analysis.report import slug

    runs: dict[str, Path] = {}
    for word in words:
        method, equals, path = word.partition('=')
        if not (method and equals and path):
            raise ValueError(f'{word!r} is not NAME=RUN: write a name for each run, such as FT=work_dirs/my_run.')
        if method in runs:
            raise ValueError(f'The method {method!r} comes twice. Give each run its own name, such as {method}-1.')
        if len(slug(method).encode()) > 150:
            raise ValueError(f'The method {method[:40]}… has a longer name than a file can have. Shorten it.')
        like = [other for other in runs if slug(other) == slug(method)]
        if like:
            raise ValueError(f'The methods {like[0]!r} and {method!r} would both have figures named '
                             f'sheet_{slug(method)}_*: upper and lower case are one there, and so are all signs. Name '
                             'one of them differently.')
        runs[method] = Path(path)
    return runs


@contextmanager
def processes(launcher: str, command: str) -> Iterator[None]:
    """Join torchrun's processes in a group, gloo's also on GPUs: all they exchange is the numbers at the end."""
    if launcher == 'none':
        yield
        return
    if 'RANK' not in os.environ or 'WORLD_SIZE' not in os.environ:
        raise ValueError(f'--launcher pytorch needs torchrun: torchrun --nproc_per_node 2 -m mmseg_daft {command} ... '
                         '--launcher pytorch')
    import torch

    torch.distributed.init_process_group('gloo')
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
