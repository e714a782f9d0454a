"""What a run of a sweep saves with `BNConversionHook(statistics=FILE)`: a conversion from it beside one with its pass.

    python benchmarks/statistics_cache.py [--images 64] [--size 256] [--batch-size 4] [--repeats 5]

Both read the same images from disk through the same pipeline. With the file, a conversion hashes the weights, reads the
statistics, and needs one mini-batch to check the output.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import measure
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from statistics_pass import segmentor

from mmseg_daft.engine.convert_model import ConversionRecord, ConversionSettings, convert_model


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', type=torch.device)
    parser.add_argument('--images', type=int, default=64)
    parser.add_argument('--size', type=int, default=256, help='of the square images')
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--base-channels', type=int, default=64, help='64 is ResNet-50; less is for tests')
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    return parser.parse_args()


def loader_config(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write images and labels of noise, and return the config of a training loader of them."""
    rng = np.random.default_rng(0)
    for part, shape, suffix in (('images', (args.size, args.size, 3), 'jpg'), ('labels', (args.size,) * 2, 'png')):
        (folder / part).mkdir()
        for i in range(args.images):
            cv2.imwrite(str(folder / part / f'{i:04d}.{suffix}'), rng.integers(0, 11, shape).astype(np.uint8))
    return dict(
        batch_size=args.batch_size, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dict(type='CamVidDataset', data_root=str(folder), img_suffix='.jpg',
                     data_prefix=dict(img_path='images', seg_map_path='labels'),
                     pipeline=[dict(type=name) for name in ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')]))


def main() -> None:
    """Measure, print the table, write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = segmentor(args.base_channels, preprocessor=True).to(args.device)
    model.data_preprocessor.size = (args.size, args.size)
    start = copy.deepcopy(model.state_dict())
    with TemporaryDirectory() as folder:
        cfg = Config(dict(model=dict(backbone=dict(), data_preprocessor=dict()),
                          train_dataloader=loader_config(Path(folder), args)))
        loader = Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader), seed=0)

        def convert(file: str | None = None) -> ConversionRecord:
            # Untrained: random weights take as long as any others.
            return convert_model(model, loader, ConversionSettings(statistics=file, allow_untrained=True), 0, cfg)

        kept = str(Path(folder) / 'kept.safetensors')
        records = []
        for file in (None, kept, kept):
            model.load_state_dict(start)
            records.append(convert(file))
        passed, _, hit = records
        if hit.pass_seconds is not None or any(not torch.equal(hit.report.statistics[name].mean, statistics.mean)
                                               for name, statistics in passed.report.statistics.items()):
            raise RuntimeError('The statistics were not read from the file, or are not those of the pass.')
        title = f'Kept statistics, ResNet-50, {args.images} images of {args.size}², {args.device}'
        tables = {title: measure.compare({'the pass': convert, 'a hit': lambda: convert(kept)}, args.repeats,
                                         args.device, lambda: model.load_state_dict(start), progress=False)}
    measure.show(tables)
    setting = {key: str(value) for key, value in vars(args).items() if key != 'results'}
    print(measure.save('statistics_cache', setting, tables, args.device, args.results))


if __name__ == '__main__':
    main()
