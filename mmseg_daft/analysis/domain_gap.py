"""How far a target domain lies from the source, and whether BN conversion is likely to matter: without training.

    python tools/domain_gap.py CONFIG [CHECKPOINT] [--out DIR] [--compare OTHER.json] [--num-batches N] ...

CONFIG is a training config on the target domain. The source model is CHECKPOINT, a segmentor's, or the start that
CONFIG names by init_cfg. Prints a ranked table and a verdict, and writes gap.csv, gap.json and gap.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmseg_daft.engine.offline import OfflinePass, add_arguments, prepare

# isort: split
import torch
from torch import Tensor

from mmseg_daft.analysis.gap_picture import draw_gap
from mmseg_daft.analysis.gap_verdict import Competence, layer_rows, verdict
from mmseg_daft.analysis.linear_probe import balanced_accuracy, probe_accuracy, sample_pixels
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.core.shift import domain_gap
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.core.variant import ConversionVariant, convert, write
from mmseg_daft.engine.convert_model import describe_dataset
from mmseg_daft.engine.training_data import TargetLoader

PIXELS = 200  # of each image, for the probes
GROUPS = 4  # of images, for cross-validation


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a training config on the target domain')
    parser.add_argument('checkpoint', nargs='?', help="the source model (default: the config's start)")
    parser.add_argument('--out', type=Path, help='folder of the report (default: work_dirs/domain_gap/CONFIG)')
    parser.add_argument('--compare', type=Path, metavar='JSON', help="another report's gap.json, drawn beside")
    parser.add_argument('--probe-batches', type=int, default=32, help='mini-batches for the probes (default: 32)')
    add_arguments(parser)
    return parser.parse_args()


@torch.no_grad()
def samples(offline: OfflinePass, num_batches: int) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Return pixels of the last feature map with their labels, in groups of images, and likewise of the logits."""
    in_all = -(-len(offline.loader.dataset) // offline.loader.batch_size)
    groups: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(min(GROUPS, in_all))]
    logits = []
    with preserved_random_state():
        loader = TargetLoader(offline.loader, offline.settings.seed, min(num_batches, in_all))
        for i, batch in enumerate(loader):
            data = offline.forward.prepare(batch)
            if not all('gt_sem_seg' in sample for sample in data['data_samples']):
                return [], []
            labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data['data_samples']])
            features = offline.model.extract_feat(data['inputs'])
            groups[i % len(groups)].append(sample_pixels(features[-1], labels, PIXELS, i))
            if offline.head_loaded and getattr(offline.model.decode_head, 'out_channels', 0) > 1:
                output = offline.model.decode_head(features)
                logits.append(sample_pixels(output, labels, PIXELS, i))
    return [tuple(map(torch.cat, zip(*group, strict=True))) for group in groups if group], logits


def competence(offline: OfflinePass, num_batches: int) -> Competence | None:
    """Measure how well the source's features serve the target's labels, as they are and with adapted statistics.

    A source decoder, where there is one, is taken to tell the same classes by the same numbers. ``None`` where the
    data have no labels, or are a single mini-batch.
    """
    source, logits = samples(offline, num_batches)
    if len(source) < 2:
        return None
    head = None
    if logits:
        outputs, labels = map(torch.cat, zip(*logits, strict=True))
        head = balanced_accuracy(outputs.argmax(1), labels)
    with preserved_random_state():
        batches = TargetLoader(offline.loader, offline.settings.seed, offline.settings.num_batches)
        statistics = collect_statistics(
            offline.model, offline.layers, batches,
            lambda batch: offline.forward.train_path(offline.forward.prepare(batch)), by_batch=True)
    before = convert(offline.layers, statistics, ConversionVariant(compensate=False))
    try:
        adapted, _ = samples(offline, num_batches)
    finally:
        write(offline.layers, before)
    classes = len(torch.cat([labels for _, labels in source]).unique())
    return Competence(probe_accuracy(source), probe_accuracy(adapted), head, classes)


def print_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print the layers, the one with the largest divergence first."""
    table = Table(title='Domain gap by layer')
    for title in ('layer', 'stage'):
        table.add_column(title, no_wrap=True)
    for title in ('shift (source sd)', '|ln var ratio|', 'divergence', 'of means', 'of variances'):
        table.add_column(title, justify='right')
    for row in sorted(rows, key=lambda row: -row['divergence']):
        table.add_row(row['layer'].removeprefix('backbone.'), row['stage'], *(f'{row[key]:.3f}' for key in (
            'mean_shift', 'log_var_ratio', 'divergence', 'mean_divergence', 'var_divergence')))
    console.print(table)


def main() -> None:
    """Make the report."""
    args = parse_args()
    console = Console()
    if not console.is_terminal and 'COLUMNS' not in os.environ:
        console.width = 120
    offline = prepare(args, args.config, args.checkpoint)
    other = json.loads(args.compare.read_text(encoding='utf-8')) if args.compare else None
    result = offline.run()
    rows = layer_rows(domain_gap(offline.layers, result.statistics))
    measured = competence(offline, args.probe_batches)
    sentence = verdict(rows, measured)
    report = dict(config=args.config, checkpoint=args.checkpoint, data=describe_dataset(offline.loader.dataset),
                  num_images=result.num_images, num_batches=result.num_batches, layers=rows,
                  competence=measured._asdict() if measured else None, verdict=sentence)
    out = args.out or Path('work_dirs') / 'domain_gap' / Path(args.config).stem
    out.mkdir(parents=True, exist_ok=True)
    (out / 'gap.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    with open(out / 'gap.csv', 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw_gap(rows, measured, out / 'gap.png', other['layers'] if other else None)
    print_table(console, rows)
    console.print(sentence, soft_wrap=True)
    console.print(f'{out}/gap.csv, gap.json, gap.png', soft_wrap=True)


if __name__ == '__main__':
    main()
