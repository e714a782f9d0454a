"""How far a target domain lies from the source, layer by layer, without training.

    mmseg-daft domain-gap CONFIG [CHECKPOINT]

CONFIG is a training config on the target domain. The source model is
CHECKPOINT, a segmentor's, or the start that CONFIG names by load_from or
init_cfg. Prints how far the statistics of each batch-norm layer move, and how
well linear read-outs of the features tell the target's pixels: of the features
as they are, and with adapted statistics; which of them is better says what to
expect of a conversion. Writes gap.csv, gap.json and gap.png.
"""

import argparse
import json
import sys
from pathlib import Path

from mmseg_daft import offline
from mmseg_daft.options import at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?', type=Path)
    parser.add_argument('--out', type=Path, help='folder of the report (default: work_dirs/domain_gap/CONFIG)')
    parser.add_argument('--compare', type=Path, metavar='JSON', help="another report's gap.json, drawn beside")
    parser.add_argument('--probe-batches', type=at_least(2), default=32, metavar='N',
                        help='mini-batches for the read-outs, which are fitted to some and judged on others '
                        '(default: 32)')
    offline.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    try:
        _measure(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f'mmseg-daft domain-gap: {error}', file=sys.stderr)
        return 1
    return 0


def _measure(args: argparse.Namespace) -> None:
    try:
        other = json.loads(args.compare.read_text(encoding='utf-8'))['layers'] if args.compare else None
        _ = [(row['layer'], float(row['divergence'])) for row in other or ()]
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f'--compare {args.compare} is not the gap.json of another report: name one that is there, in '
                         'the --out of that report.') from error
    import mmseg_daft

    mmseg_daft.register()
    from mmseg_daft.analysis.figures import figure_style, save_figure
    from mmseg_daft.analysis.report import MADE_FROM, refuse_other_report, write_csv
    from mmseg_daft.console import make_console, print_table, quiet
    from mmseg_daft.files import refuse_unwritable, write_atomically
    from mmseg_daft.offline.gap import draw_gap, measure_accuracies, measure_layers, summary, verdict
    from mmseg_daft.offline.start import read_start

    out = args.out or Path('work_dirs', 'domain_gap', args.config.stem)
    made_from = {'config': str(args.config.resolve()), 'checkpoint': args.checkpoint and str(args.checkpoint.resolve()),
                 'modules': args.modules, 'cfg-options': args.cfg_options}
    for name in ('gap.json', 'gap.csv', 'gap.png'):
        refuse_unwritable(out / name)
    refuse_other_report(out, 'gap.json', made_from)
    with quiet():
        start = read_start(args, args.checkpoint and str(args.checkpoint))
    rows, record = measure_layers(start)
    write_atomically(out / MADE_FROM, made_from)  # first: a report that breaks off can be made again
    write_csv(out / 'gap.csv', list(rows[0]), rows)
    accuracies = measure_accuracies(start, args.probe_batches)

    sentence, expected = summary(rows, accuracies), verdict(accuracies) if accuracies else None
    write_atomically(out / 'gap.json', dict(
        config=str(args.config), checkpoint=args.checkpoint and str(args.checkpoint),
        data=record.dataset, num_images=record.num_images, num_batches=record.num_batches,
        accuracies=accuracies and accuracies._asdict(), summary=sentence, verdict=expected, layers=rows))
    with figure_style():
        save_figure(draw_gap(rows, accuracies, other), out, 'gap', ['png'])
    console = make_console()
    keys = ('mean_shift', 'log_var_ratio', 'divergence', 'mean_divergence', 'var_divergence')
    print_table(
        console, 'Domain gap by layer, the largest first',
        ('layer', 'shift\n(source sd)', '|ln var\nratio|', 'divergence\n(nats)', 'of\nmeans', 'of\nvariances'),
        [[row['layer'].removeprefix('backbone.'), *(f'{row[key]:.3f}' for key in keys)]
         for row in sorted(rows, key=lambda row: -row['divergence'])])
    console.print(sentence, markup=False)
    if expected:
        console.print(f'\n{expected}', markup=False)
    console.print(f'\nReport: {out}: gap.csv, gap.json, gap.png', soft_wrap=True, markup=False)
