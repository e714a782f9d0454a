"""What a run of a sweep saves where the statistics are kept (`BNConversionHook(cache_dir=...)`): a hit beside the pass.

    python benchmarks/statistics_cache.py [--images 64] [--size 256] [--batch-size 4] [--repeats 5]

Both read the same images from disk through the same pipeline; a hit takes the fingerprint of weights and files, reads
the kept statistics and one mini-batch for the check of the output.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import measure
import numpy as np
import torch
from mmengine.runner import Runner
from statistics_pass import segmentor

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.engine.convert_model import PassSettings, run_pass
from mmseg_daft.engine.statistics_file import cached_pass
from mmseg_daft.engine.training_data import ModelForward


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


def loader_of(folder: Path, args: argparse.Namespace) -> Any:
    """Write images and labels of noise, and return a training loader of them."""
    rng = np.random.default_rng(0)
    for part, shape, suffix in (('images', (args.size, args.size, 3), 'jpg'), ('labels', (args.size,) * 2, 'png')):
        (folder / part).mkdir()
        for i in range(args.images):
            cv2.imwrite(str(folder / part / f'{i:04d}.{suffix}'), rng.integers(0, 11, shape).astype(np.uint8))
    return Runner.build_dataloader(dict(
        batch_size=args.batch_size, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dict(type='CamVidDataset', data_root=str(folder), img_suffix='.jpg',
                     data_prefix=dict(img_path='images', seg_map_path='labels'),
                     pipeline=[dict(type=name) for name in ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')])),
        seed=0)


def main() -> None:
    """Measure, print the table, write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = segmentor(args.base_channels, preprocessor=True).to(args.device)
    model.data_preprocessor.size = (args.size, args.size)
    layers = find_batch_norms(model, ('backbone',))
    forward, settings = ModelForward(model, layers), PassSettings()
    logger = logging.getLogger('statistics_cache')
    logger.disabled = True
    with TemporaryDirectory() as folder:
        loader = loader_of(Path(folder), args)
        kept = Path(folder) / 'kept'
        pass_of_its_own = run_pass(forward, layers, loader, settings)
        cached_pass(kept, logger, forward, layers, loader, settings)
        hit = cached_pass(kept, logger, forward, layers, loader, settings)
        if hit.seconds is not None or any(
                not torch.equal(hit.statistics[name].mean, pass_of_its_own.statistics[name].mean) for name in layers):
            raise RuntimeError('The statistics were not read from the file, or are not those of the pass.')
        title = f'Kept statistics, ResNet-50, {args.images} images of {args.size}², {args.device}'
        tables = {title: measure.compare({
            'the pass': lambda: run_pass(forward, layers, loader, settings),
            'a hit': lambda: cached_pass(kept, logger, forward, layers, loader, settings)}, args.repeats, args.device,
            progress=False)}
    measure.show(tables)
    setting = {key: str(value) for key, value in vars(args).items() if key != 'results'}
    print(measure.save('statistics_cache', setting, tables, args.device, args.results))


if __name__ == '__main__':
    main()
