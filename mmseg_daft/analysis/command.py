"""What fine-tuning did to a model: the paper's figures of feature distortion from anyone's runs, in one report.

    python tools/analyze_distortion.py CONFIG METHOD=RUN [METHOD=RUN ...] [--pretrained CHECKPOINT] [--out DIR]

CONFIG is an mmseg config of the model and data. RUN is a checkpoint or a run folder, of which the last checkpoint is
taken; all are of the config's architecture. The pre-trained model is what the config starts from (init_cfg, load_from),
or --pretrained. For example

    python tools/analyze_distortion.py configs/ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py \\
        FT=work_dirs/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513 \\
        DAFT=work_dirs/daft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513
    torchrun --nproc_per_node 2 tools/analyze_distortion.py ... --launcher pytorch    # also without a GPU

writes report.html (one file, figures inside), numbers.csv (every number, tidy) and figures/*.png, .pdf, .svg.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmseg_daft.analysis.tables import show_findings
from mmseg_daft.console import quiet

FORMATS = ('png', 'pdf', 'svg')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('runs', metavar='METHOD=RUN', nargs='+', help='a name, and a checkpoint or run folder')
    parser.add_argument('--pretrained', type=Path, help='checkpoint of the pre-trained model (default: the config\'s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/distortion'), help='default: work_dirs/distortion')
    parser.add_argument('--stages', nargs='+', default=['all'], help='of the backbone, such as 1 4 (default: all)')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='test')
    parser.add_argument('--images', type=int, help='only so many, evenly spread over the split')
    parser.add_argument('--batch-size', type=int, default=1, help='images of one size at once (default: 1)')
    parser.add_argument('--workers', type=int, default=2, help='processes that load images (default: 2)')
    parser.add_argument('--amp', action='store_true', help='half precision; bfloat16 on a CPU')
    parser.add_argument('--recompute-conversion', action='store_true',
                        help='for converted runs of older versions: convert again, from their training data')
    parser.add_argument('--no-sheets', action='store_true', help='leave out the least and most distorted images')
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=list(FORMATS), help='of the figures')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='as of tools/train.py')
    parser.add_argument('--launcher', choices=('none', 'pytorch'), default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def read_runs(words: Sequence[str]) -> dict[str, Path]:
    """Return paths by method.

    Raises:
        ValueError: A word is not METHOD=RUN, or a method comes twice, also as the name that its figures' files have.
    """
    with quiet():
        from mmseg_daft.analysis.report_figures import slug
    runs: dict[str, Path] = {}
    for word in words:
        method, equals, path = word.partition('=')
        if not (method and equals and path):
            raise ValueError(f'{word!r} is not METHOD=RUN, such as FT=work_dirs/my_run.')
        if method in runs:
            raise ValueError(f'The method {method!r} comes twice. Give each run its own name, such as {method}-1.')
        like = [other for other in runs if slug(other) == slug(method)]
        if like:
            raise ValueError(f'The methods {like[0]!r} and {method!r} would both have figures named '
                             f'sheet_{slug(method)}_*: upper and lower case are one there, and so are all signs. Name '
                             'one of them differently.')
        runs[method] = Path(path)
    return runs


def join_processes(launcher: str) -> tuple[int, int]:
    """Return this process's number and how many there are; with torchrun, gather them in one group.

    The group is gloo's also on GPUs: all that is exchanged is the numbers at the end.

    Raises:
        ValueError: torchrun did not start this process.
    """
    if launcher == 'none':
        return 0, 1
    if 'RANK' not in os.environ or 'WORLD_SIZE' not in os.environ:
        raise ValueError('--launcher pytorch needs torchrun: torchrun --nproc_per_node 2 tools/analyze_distortion.py '
                         '... --launcher pytorch')
    import torch

    torch.distributed.init_process_group('gloo')
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def run(args: argparse.Namespace, console: Console) -> None:
    """Analyse as the command line says, and print the summary."""
    runs = read_runs(args.runs)
    if not args.config.is_file():
        raise ValueError(f'There is no config {args.config}.')
    if min(args.images or 1, args.batch_size) < 1:
        raise ValueError('--images and --batch-size have to be at least 1.')
    with quiet():
        import mmseg_daft  # noqa: F401  it imports mmseg, after its repairs

        # isort: split
        from mmengine.config import Config

        from mmseg_daft.analysis.distortion_analysis import Options, analyse
        from mmseg_daft.engine.configs import merge_options

        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
    rank, world_size = join_processes(args.launcher)
    options = Options(
        args.out, args.pretrained, args.stages, args.split, args.batch_size, args.workers, args.images, args.amp,
        args.recompute_conversion, not args.no_sheets, args.formats, rank, world_size)
    columns = (TextColumn('{task.description:<24}'), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=rank > 0, redirect_stdout=False, redirect_stderr=False)
    tasks: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total)
        progress.update(tasks[what], completed=done)

    with progress if rank == 0 else nullcontext():
        findings = analyse(cfg, runs, options, report)
    if findings is not None:
        show_findings(console, findings)
        console.print(f'Report: [bold]{args.out / "report.html"}[/]  numbers: {args.out / "numbers.csv"}  '
                      f'figures: {args.out / "figures"}', soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = parse_args(argv)
    console = Console(highlight=False)
    if not console.is_terminal and 'COLUMNS' not in os.environ:
        console.width = 120
    try:
        run(args, console)
    except (ValueError, FileNotFoundError) as error:
        print(f'analyze_distortion: {error}', file=sys.stderr)
        return 1
    finally:
        if args.launcher == 'pytorch':
            import torch

            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    return 0


if __name__ == '__main__':
    sys.exit(main())
