"""Between the start and the end of a fine-tuning: is there a model that is better on both domains (WiSE-FT)?

    mmseg-daft interpolate CONFIG START END [--alphas 0 0.1 ... 1]
        [--sets FILE [SET ...]] [--save]

CONFIG is the training's config. START is what it began with: a checkpoint, a run folder, or the word config for what
CONFIG starts from (load_from, init_cfg). END is its checkpoint or run folder. At each alpha, weights are (1 - alpha) of
START and alpha of END; batch-norm statistics are taken anew from the training data. Where END was converted before its
training, so is START. All models are evaluated in one reading on the config's own test set and on the sets that FILE
describes.

Writes curve.csv (mIoU with its interval for each alpha and set) and curve.png. What has been counted is kept in cells/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_daft.options import add_cfg_options, at_least, within

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmseg.models import BaseSegmentor

    from mmseg_daft.analysis.runs import LoadedModel

FROM_CONFIG = 'config'
_SIDE_BY_SIDE = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('start', metavar='START', help="a checkpoint, a run folder, or 'config'")
    parser.add_argument('end', metavar='END', type=Path, help='a checkpoint or a run folder')
    parser.add_argument('--alphas', nargs='+', type=within(0, 1), default=[i / 10 for i in range(11)], metavar='ALPHA',
                        help='from 0, the start, to 1, the end (default: 0 0.1 ... 1)')
    parser.add_argument('--sets', nargs='+', default=[], metavar=('FILE', 'SET'),
                        help='further test sets: a file, or the name of a shipped one; of them all, or these alone')
    parser.add_argument('--num-batches', type=at_least(1), metavar='N',
                        help='mini-batches of training data for the statistics at each alpha (default: all)')
    parser.add_argument('--out', type=Path, help='folder of the report (default: work_dirs/interpolate/CONFIG)')
    parser.add_argument('--save', action='store_true', help='write the models, too: alpha_0.5.pth and so on')
    parser.add_argument('--workers', type=at_least(0), default=4, help='processes that load test images (default: 4)')
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    try:
        _interpolate(args)
    except (ValueError, OSError) as error:
        print(f'mmseg-daft interpolate: {error}', file=sys.stderr)
        return 1
    return 0


def _name(alpha: float) -> str:
    return repr(alpha).removesuffix('.0')


def _ends(args: argparse.Namespace, cfg: Config) -> tuple[LoadedModel, LoadedModel]:
    """Return the models that START and END name."""
    import torch

    from mmseg_daft.analysis.runs import load_run, load_start

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    start = load_start(cfg, None, device) if args.start == FROM_CONFIG else load_run(
        cfg, 'START', Path(args.start), device)
    return start, load_run(cfg, 'END', args.end, device)


def _save(model: BaseSegmentor, path: Path, meta: dict[str, Any]) -> None:
    from mmseg_daft.engine.checkpoints import write_checkpoint

    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    write_checkpoint(path, dict(meta=dict(interpolation=meta), state_dict=state))


def _interpolate(args: argparse.Namespace) -> None:
    import mmseg_daft

    mmseg_daft.register()
    from rich.progress import track

    from mmseg_daft.analysis.figures import figure_style, save_figure
    from mmseg_daft.analysis.report import MADE_FROM, refuse_other_report, write_csv
    from mmseg_daft.console import make_console, print_table, quiet
    from mmseg_daft.engine.configs import is_classifier, read_config
    from mmseg_daft.evaluation.cells import open_cells
    from mmseg_daft.evaluation.curve import curve_rows, draw_curve
    from mmseg_daft.evaluation.interpolation import line_between
    from mmseg_daft.evaluation.measure import evaluate
    from mmseg_daft.evaluation.results import Results
    from mmseg_daft.evaluation.sets import read_sets
    from mmseg_daft.files import refuse_unwritable, write_atomically

    with quiet():
        cfg = read_config(args.config, args.cfg_options, needs=('model', 'train_dataloader', 'test_dataloader'))
        if is_classifier(cfg):
            raise ValueError(f'{args.config} is of a classifier, and interpolate is for segmentation.')
        further = read_sets(args.sets[0], args.sets[1:]) if args.sets else {}
    out, alphas = args.out or Path('work_dirs', 'interpolate', args.config.stem), sorted({*args.alphas})
    made_from = {'config': str(args.config.resolve()), 'cfg-options': args.cfg_options, 'end': str(args.end.resolve()),
                 'start': args.start if args.start == FROM_CONFIG else str(Path(args.start).resolve())}
    saved = {alpha: out / f'alpha_{_name(alpha)}.pth' for alpha in alphas if args.save}
    for path in (out / 'curve.csv', out / 'curve.png', out / 'cells' / 'x.gz', *saved.values()):
        refuse_unwritable(path)
    refuse_other_report(out, 'curve.csv', made_from)
    console = make_console()
    with quiet():
        line = line_between(cfg, *_ends(args, cfg))
        data = open_cells(cfg, further, [])
    models = {}
    for alpha in track(alphas, 'Statistics', console=console, transient=True, disable=not console.is_terminal):
        models[_name(alpha)] = model = line.model(alpha, cfg, args.num_batches)
        if args.save:
            _save(model, saved[alpha], dict(made_from, alpha=alpha))
    files = evaluate(models, data.cells, data.classes, out / 'cells', cfg, args.workers, console)
    results = Results(list(models), data.classes, data.lacking, {cell.key[0]: cell.names() for cell in data.cells},
                      [cell.key for cell in data.cells], files, data.remarks())
    rows = list(curve_rows(results))
    write_atomically(out / MADE_FROM, made_from)  # first: a report that breaks off can be made again
    write_csv(out / 'curve.csv', list(rows[0]), rows)
    with figure_style():
        save_figure(draw_curve(rows), out, 'curve', ['png'])
    sets = list(results.sets)
    for some in (sets[i:i + _SIDE_BY_SIDE] for i in range(0, len(sets), _SIDE_BY_SIDE)):
        print_table(console, 'mIoU in %', ('alpha', *some), [[name, *(
            f'{100 * row["miou"]:.2f}' for row in rows if row['alpha'] == float(name) and row['set'] in some)]
            for name in models])
    for note in (line.words, *results.notes):
        console.print(f'Note: {note}', soft_wrap=True, markup=False)
    console.print(f'\nReport: {out}: curve.csv, curve.png{", alpha_*.pth" * args.save}', soft_wrap=True, markup=False)
