"""What a look of `FeatureDistortionHook` costs beside a training iteration, with the hook's own images and stages.

    python benchmarks/distortion_look.py --depth 18 --batch-size 8 --size 160 --image-size 180 240    # CamVid's configs
    python benchmarks/distortion_look.py --depth 50 --batch-size 4 --size 256 --image-size 256 256

The title of the table says which share of the training that is at the hook's default interval. Iterations here wait for
no data, which makes the share larger than that of a real run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measure
import torch
from mmseg.structures import SegDataSample
from statistics_pass import segmentor
from training import iterations

from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.engine.feature_reference import fixed_samples
from mmseg_daft.engine.hooks.feature_distortion_hook import FeatureDistortionHook


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', type=torch.device)
    parser.add_argument('--depth', type=int, choices=(18, 50), default=18, help='of the ResNet')
    parser.add_argument('--size', type=int, default=160, help='of the square crops of training')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--image-size', type=int, nargs=2, default=(180, 240), help='of the images looked at')
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--base-channels', type=int, default=64, help='64 is the real ResNet; less is for tests')
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    return parser.parse_args()


def images(number: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return images of noise, as a pipeline leaves them."""
    samples = [dict(inputs=torch.randint(0, 256, (3, *size), dtype=torch.uint8),
                    data_samples=SegDataSample(metainfo=dict(ori_shape=tuple(size), img_shape=tuple(size))))
               for _ in range(number)]
    return fixed_samples(samples, number)


def main() -> None:
    """Measure, print the table, write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = segmentor(args.base_channels, preprocessor=True, depth=args.depth).to(args.device)
    hook = FeatureDistortionHook()
    hook.keep(model, images(hook.num_images, args.image_size), {})

    def look() -> dict[str, Any]:
        with preserved_random_state():
            return hook.measure(model)

    if not {'stage4/cka', 'change/conv_weight', 'drift/bn_mean'} <= look().keys():
        raise RuntimeError('The look did not measure what it has to.')
    rows = measure.compare({'training iteration': next(iter(iterations(model, args).values())), 'a look': look},
                           args.repeats, args.device)
    height, width = args.image_size
    title = (f'Look at {hook.num_images} images of {width} x {height}, ResNet-{args.depth}, training '
             f'{args.batch_size} x {args.size}², {args.device}; every {hook.interval} iterations '
             f'{rows[1]["ratio"] / hook.interval:.2%}')
    measure.show({title: rows})
    setting = {key: str(value) for key, value in vars(args).items() if key != 'results'}
    print(measure.save(f'distortion_look_r{args.depth}', setting, {title: rows}, args.device, args.results))


if __name__ == '__main__':
    main()
