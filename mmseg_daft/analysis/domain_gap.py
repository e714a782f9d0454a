"""How far a target domain lies from the source, layer by layer, without training.

    mmseg-daft domain-gap CONFIG [CHECKPOINT]

CONFIG is a training config on the target domain. The source model is
CHECKPOINT, a segmentor's, or the start that CONFIG names by init_cfg. Prints
how far the statistics of each batch-norm layer move, and how well linear
read-outs of the features tell the target's pixels: of the features as they
are, and with adapted statistics. Writes gap.csv, gap.json and gap.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmseg_daft.analysis.linear_probe import Accuracies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?', type=Path)
    parser.add_argument('--out', type=Path, help='folder of the report (default: work_dirs/domain_gap/CONFIG)')
    parser.add_argument('--compare', type=Path, metavar='JSON', help="another report's gap.json, drawn beside")
    parser.add_argument('--probe-batches', type=int, default=32, help='mini-batches for the read-outs (default: 32)')
    parser.add_argument('--modules', nargs='+', help="submodules whose layers are meant (default: the config's "
                        'BNConversionHook, or the backbone)')
    parser.add_argument('--num-batches', type=int, help="mini-batches of the pass (default: the hook's, or all)")
    parser.add_argument('--cache-dir', help='folder of statistics files to read from and write to')
    parser.add_argument('--device', help='default: cuda if there is one, or cpu')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='override settings of the config')


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    try:
        _measure(args)
    except (ValueError, FileNotFoundError) as error:
        print(f'mmseg-daft domain-gap: {error}', file=sys.stderr)
        return 1
    return 0


def _measure(args: argparse.Namespace) -> None:
    if args.probe_batches < 1:
        raise ValueError('--probe-batches has to be at least 1.')
    other = json.loads(args.compare.read_text(encoding='utf-8')).get('layers') if args.compare else None
    if args.compare and not other:
        raise ValueError(f'{args.compare} is not the gap.json of another report.')
    import mmseg_daft

    mmseg_daft.register()
    from mmseg_daft.analysis.command import print_table
    from mmseg_daft.analysis.figures import draw_gap, figure_style, save_figure
    from mmseg_daft.analysis.linear_probe import measure_accuracies
    from mmseg_daft.analysis.report import MADE_FROM, refuse_other_report
    from mmseg_daft.console import make_console
    from mmseg_daft.core.distortion import stage_of
    from mmseg_daft.core.shift import domain_gap
    from mmseg_daft.doctor.quiet import quiet
    from mmseg_daft.engine.convert_model import describe_dataset
    from mmseg_daft.engine.offline import prepare
    from mmseg_daft.files import write_atomically

    out = args.out or Path('work_dirs', 'domain_gap', args.config.stem)
    made_from = {'config': str(args.config.resolve()), 'checkpoint': args.checkpoint and str(args.checkpoint.resolve()),
                 'modules': args.modules, 'cfg-options': args.cfg_options}
    refuse_other_report(out, 'gap.json', made_from)
    with quiet():
        offline = prepare(args, str(args.config), args.checkpoint and str(args.checkpoint))
    result = offline.run()
    rows = [dict(layer=name, stage=stage_of(name), **gap.numbers())
            for name, gap in domain_gap(offline.layers, result.statistics).items()]
    accuracies = measure_accuracies(offline, args.probe_batches)

    out.mkdir(parents=True, exist_ok=True)
    sentence = summary(rows, accuracies)
    write_atomically(out / 'gap.json', dict(
        config=str(args.config), checkpoint=args.checkpoint and str(args.checkpoint),
        data=describe_dataset(offline.loader.dataset), num_images=result.num_images, num_batches=result.num_batches,
        accuracies=accuracies and accuracies._asdict(), summary=sentence, layers=rows))
    with open(out / 'gap.csv', 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with figure_style():
        save_figure(draw_gap(rows, accuracies, other), out, 'gap', ['png'])
    write_atomically(out / MADE_FROM, made_from)
    console = make_console()
    keys = ('mean_shift', 'log_var_ratio', 'divergence', 'mean_divergence', 'var_divergence')
    print_table(
        console, 'Domain gap by layer, the largest first',
        ('layer', 'shift\n(source sd)', '|ln var\nratio|', 'divergence\n(nats)', 'of\nmeans', 'of\nvariances'),
        [[row['layer'].removeprefix('backbone.'), *(f'{row[key]:.3f}' for key in keys)]
         for row in sorted(rows, key=lambda row: -row['divergence'])])
    console.print(sentence, markup=False)
    console.print(f'\nReport: {out}: gap.csv, gap.json, gap.png', soft_wrap=True, markup=False)


def summary(rows: Sequence[Mapping[str, Any]], accuracies: Accuracies | None) -> str:
    """Return the gap in one line: how large, of means or variances, where the largest; and the read-outs.

    Args:
        rows: The numbers of each layer.
        accuracies: What was measured of the features, or ``None``.
    """
    means, variances = (sum(row[part] for row in rows) for part in ('mean_divergence', 'var_divergence'))
    share = f', {means / (means + variances):.0%} of it from means' if means + variances else ''
    stages = {row['stage']: median(r['divergence'] for r in rows if r['stage'] == row['stage']) for row in rows}
    farthest = max(stages, key=stages.__getitem__)
    line = (f'Median divergence {median(row["divergence"] for row in rows):.2f} nats over {len(rows)} layers{share}; '
            f'largest in {"stage " * farthest.isdigit()}{farthest} ({stages[farthest]:.2f}).')
    if accuracies is None:
        return f'{line} No labels, so no read-outs.'
    head = '' if accuracies.head is None else f', source decoder {accuracies.head:.0%}'
    return (f'{line} Balanced accuracy on target pixels (chance {1 / accuracies.classes:.0%}): linear read-out of '
            f'source features {accuracies.source:.0%}, with adapted statistics {accuracies.adapted:.0%}{head}.')
