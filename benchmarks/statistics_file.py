"""What a run of a sweep saves by `BNConversionHook(statistics=FILE)`: the file beside the pass.

    python benchmarks/statistics_file.py [--images 64] [--size 256] [--batch-size 4] [--repeats 5]

Both read the same images from disk through the same pipeline; with the file it is one mini-batch, for the check of the
output.
"""

from __future__ import annotations

import argparse
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

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import write
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
    layers = find_batch_norms(model, ('backbone',))
    with TemporaryDirectory() as folder:
        loader_cfg = loader_config(Path(folder), args)
        loader = Runner.build_dataloader(loader_cfg, seed=0)
        cfg = Config(dict(model=dict(type='EncoderDecoder'), train_dataloader=loader_cfg))

        def convert(file: str | None) -> ConversionRecord:
            """Convert and take it back, so that the next one begins with the same weights."""
            settings = ConversionSettings(allow_untrained=True, statistics=file)
            record = convert_model(model, loader, settings, 0, cfg)
            write(layers, record.report.source)
            return record

        kept = str(Path(folder) / 'statistics.safetensors')
        by_pass, _, by_file = (convert(file) for file in (None, kept, kept))
        if by_file.pass_seconds is not None or any(
                not torch.equal(by_file.report.statistics[name].mean, by_pass.report.statistics[name].mean)
                for name in layers):
            raise RuntimeError('The statistics were not read from the file, or are not those of the pass.')
        title = f'Statistics in a file, ResNet-50, {args.images} images of {args.size}², {args.device}'
        tables = {title: measure.compare({
            'the pass': lambda: convert(None), 'the file': lambda: convert(kept)}, args.repeats, args.device,
            progress=False)}
    measure.show(tables)
    setting = {key: str(value) for key, value in vars(args).items() if key != 'results'}
    print(measure.save('statistics_file', setting, tables, args.device, args.results))


if __name__ == '__main__':
    main()
