"""Whether `mmseg-daft evaluate` hides the cheaper of its two works: corrupting images, and running models on them.

    python benchmarks/evaluation.py [--images 24] [--size 256] [--models 2] [--workers 1] [--repeats 5]
        [--corruptions gaussian_noise fog glass_blur]

It is to take at most 1.1 times as long as the slower of the two, with a core for each worker and one for models.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measure
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from statistics_file import loader_config
from statistics_pass import segmentor
from torch import nn

from mmseg_daft.evaluation.cells import Cell
from mmseg_daft.evaluation.measure import confusions, evaluate, sample_loader

CLASSES = 21  # of the segmentor


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', type=torch.device)
    parser.add_argument('--images', type=int, default=24)
    parser.add_argument('--size', type=int, default=256, help='of the square images')
    parser.add_argument('--models', type=int, default=2)
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--corruptions', nargs='+', default=['gaussian_noise', 'fog', 'glass_blur'])
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--base-channels', type=int, default=64, help='64 is ResNet-50; less is for tests')
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    parser.set_defaults(batch_size=1)
    return parser.parse_args()


def corrupt_all(cells: list[Cell], workers: int) -> list[Any]:
    """Read and corrupt all images, and keep them."""
    return list(sample_loader(cells, [(i, n) for i, cell in enumerate(cells) for n in range(cell.images)], workers))


def run_models(models: dict[str, nn.Module], samples: list[Any], cell: Cell) -> None:
    """Run the models on images that are in memory, and count."""
    for sample in samples:
        list(confusions(models, sample, cell, CLASSES, [255]))


def main() -> None:
    """Measure, print the table, write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    init_default_scope('mmseg')
    models = {str(i): segmentor(args.base_channels, preprocessor=True).to(args.device) for i in range(args.models)}
    for model in models.values():
        model.eval()
    cfg = Config(dict(model=dict(decode_head=dict(num_classes=CLASSES))))
    with TemporaryDirectory() as place:
        dataset = loader_config(Path(place), args)['dataset']
        cells = [Cell('test', dataset, name, 3) for name in args.corruptions]
        samples = corrupt_all(cells, 0)

        def whole() -> None:
            with TemporaryDirectory() as folder:
                evaluate(models, cells, [str(i) for i in range(CLASSES)], Path(folder), cfg, args.workers)

        title = (f'Evaluation of {args.models} ResNet-50, {args.images} images of {args.size}², '
                 f'{", ".join(args.corruptions)}, workers: {args.workers}, {args.device}')
        rows = measure.compare({
            'the models alone': lambda: run_models(models, samples, cells[0]),
            'reading and corrupting alone': lambda: corrupt_all(cells, args.workers),
            'the evaluation': whole}, args.repeats, args.device, by_wall=True)
    measure.show({title: rows})
    ratios = [both / max(alone, corrupting) for alone, corrupting, both in zip(
        *(row['seconds'] for row in rows), strict=True)]
    print(f'The evaluation takes {statistics.median(ratios):.2f} times as long as the slower of the two.')
    setting = {key: str(value) for key, value in vars(args).items() if key != 'results'}
    print(measure.save('evaluation', setting, {title: rows}, args.device, args.results))


if __name__ == '__main__':
    main()
