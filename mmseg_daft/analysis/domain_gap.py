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
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mmseg_daft import offline

if TYPE_CHECKING:
    from mmseg_daft.analysis.linear_probe import Accuracies
    from mmseg_daft.core.shift import Shift
    from mmseg_daft.engine.convert_model import ConversionRecord
    from mmseg_daft.offline.start import Start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?', type=Path)
    parser.add_argument('--out', type=Path, help='folder of the report (default: work_dirs/domain_gap/CONFIG)')
    parser.add_argument('--compare', type=Path, metavar='JSON', help="another report's gap.json, drawn beside")
    parser.add_argument('--probe-batches', type=int, default=32, help='mini-batches for the read-outs (default: 32)')
    offline.add_arguments(parser)


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
    try:
        other = json.loads(args.compare.read_text(encoding='utf-8'))['layers'] if args.compare else None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f'{args.compare} is not the gap.json of another report.') from error
    import mmseg_daft

    mmseg_daft.register()
    from mmseg_daft.analysis.command import print_table
    from mmseg_daft.analysis.figures import draw_gap, figure_style, save_figure
    from mmseg_daft.analysis.linear_probe import measure_accuracies
    from mmseg_daft.analysis.report import MADE_FROM, refuse_other_report, write_csv
    from mmseg_daft.console import make_console, quiet
    from mmseg_daft.files import write_atomically
    from mmseg_daft.offline.start import read_start

    out = args.out or Path('work_dirs', 'domain_gap', args.config.stem)
    made_from = {'config': str(args.config.resolve()), 'checkpoint': args.checkpoint and str(args.checkpoint.resolve()),
                 'modules': args.modules, 'cfg-options': args.cfg_options}
    refuse_other_report(out, 'gap.json', made_from)
    with quiet():
        start = read_start(args, args.checkpoint and str(args.checkpoint))
    rows, record = measure_layers(start)
    accuracies = measure_accuracies(start, args.probe_batches)

    sentence = summary(rows, accuracies)
    write_atomically(out / 'gap.json', dict(
        config=str(args.config), checkpoint=args.checkpoint and str(args.checkpoint),
        data=record.dataset, num_images=record.num_images, num_batches=record.num_batches,
        accuracies=accuracies and accuracies._asdict(), summary=sentence, layers=rows))
    write_csv(out / 'gap.csv', list(rows[0]), rows)
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


def measure_layers(start: Start) -> tuple[list[dict[str, Any]], ConversionRecord]:
    """Return the numbers of each layer, from a conversion that is undone, and its record."""
    from mmseg_daft.core.distortion import stage_of
    from mmseg_daft.core.shift import statistics_shift
    from mmseg_daft.core.variant import ConversionVariant

    record = start.convert(replace(start.settings, variant=ConversionVariant(), tolerance=float('inf')))
    source, target = record.report.source, record.report.statistics
    record.report.undo(start.model)
    return [dict(layer=name, stage=stage_of(name), **numbers(statistics_shift(
        source[name].running_mean, source[name].running_var, target[name].mean, target[name].var,
        start.model.get_submodule(name).eps))) for name in source], record


def numbers(shift: Shift) -> dict[str, float]:
    """Return a layer's row of the report.

    Shift and ratio are means of absolute values over the channels. Divergences are medians: a channel that was all but
    dead in the source divides by a variance of next to nothing.
    """
    return dict(
        channels=len(shift.mean),
        **shift.average._asdict(),
        signed_log_var_ratio=float(shift.log_var_ratio.mean()),
        divergence=float(shift.divergence.median()),
        mean_divergence=float(shift.mean_divergence.median()),
        var_divergence=float(shift.var_divergence.median()),
        largest_divergence=float(shift.divergence.max()))


def summary(rows: Sequence[Mapping[str, Any]], accuracies: Accuracies | None) -> str:
    """Return the gap in one line: how large, of means or variances, where the largest; and the read-outs."""
    means, variances = (sum(row[part] for row in rows) for part in ('mean_divergence', 'var_divergence'))
    share = f', {means / (means + variances):.0%} of it from means' if means + variances else ''
    stages = {row['stage']: median(r['divergence'] for r in rows if r['stage'] == row['stage']) for row in rows}
    farthest = max(stages, key=stages.__getitem__)
    line = (f'Median divergence {median(row["divergence"] for row in rows):.2f} nats over {len(rows)} layers{share}; '
            f'largest in {"stage " * farthest.isdigit()}{farthest} ({stages[farthest]:.2f}).')
    if accuracies is None:
        return f'{line} No read-outs: there are no labels, or a single mini-batch.'
    head = '' if accuracies.head is None else f', source decoder {accuracies.head:.0%}'
    return (f'{line} Balanced accuracy on target pixels (chance {1 / accuracies.classes:.0%}): linear read-out of '
            f'source features {accuracies.source:.0%}, with adapted statistics {accuracies.adapted:.0%}{head}.')
