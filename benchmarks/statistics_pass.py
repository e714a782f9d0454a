"""What the conversion's pass costs beyond a bare evaluation pass of the backbone, beside what others do.

    python benchmarks/statistics_pass.py [--size 256] [--batch-size 4] [--batches 2] [--repeats 7] [--threads 1]
    python benchmarks/statistics_pass.py --device cuda --size 768 --batch-size 16 --dtype bfloat16

All ways see the same mini-batches in the same run; `update_bn` and `update_bn_stats` collect in training mode. With
--whole-model they also run the decoder, as their users call them. `pip install -e '.[bench]'` brings fvcore, and
`pip install mmpretrain model-index 'importlib-metadata<9'` the function of mmpretrain's PreciseBNHook; without them
their lines are missing.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.statistics import BatchMoments, collect_statistics

try:
    from fvcore.nn.precise_bn import update_bn_stats
except ImportError:
    update_bn_stats = None
try:
    from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats as precise_bn
except ImportError:
    precise_bn = None

MODEL_FOLDER = Path(__file__).resolve().parents[1] / 'configs/_base_/models'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', type=torch.device)
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'], help='of the autocast')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--size', type=int, default=256, help='of the square images')
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--batches', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--whole-model', action='store_true', help='also what others do as their users call it')
    parser.add_argument('--base-channels', type=int, default=64, help='64 is ResNet-50; less is for tests')
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    return parser.parse_args(argv)


def segmentor(base_channels: int, preprocessor: bool = False, depth: int = 50) -> nn.Module:
    """Build the recipe's DeepLabv3+ on a ResNet-50, or the small one on a ResNet-18, with plain batch norm."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(MODEL_FOLDER / f'deeplabv3plus_r{depth}.py').model
    cfg.backbone.update(base_channels=base_channels, stem_channels=base_channels)
    stage1 = base_channels * (1 if depth < 50 else 4)
    cfg.decode_head.update(in_channels=8 * stage1, c1_in_channels=stage1)
    for part in (cfg.backbone, cfg.decode_head):
        part.norm_cfg.type = 'BN'  # mmengine's stand-in for SyncBN is no BatchNorm2d: fvcore would pass it over
    if not preprocessor:
        cfg.pop('data_preprocessor')
    return MODELS.build(cfg)


def bare(model: nn.Module, batches: list[Tensor]) -> None:
    """The floor: a pass in test mode."""
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)


def naive(model: nn.Module, batches: list[Tensor]) -> None:
    """What one writes first: `var_mean` in a hook on every layer."""
    found: dict[nn.Module, list[Any]] = {}
    handles = [layer.register_forward_pre_hook(lambda layer, inputs: found.setdefault(layer, []).append(
        torch.var_mean(inputs[0], (0, 2, 3)))) for layer in find_batch_norms(model, ('',)).values()]
    bare(model, batches)
    for values in found.values():
        torch.stack([var for var, _ in values]).mean(0), torch.stack([mean for _, mean in values]).mean(0)
    for handle in handles:
        handle.remove()


def ours(model: nn.Module, batches: list[Tensor]) -> None:
    """The conversion's pass."""
    collect_statistics(model, find_batch_norms(model, ('',)), batches, model)


def kernel_moments(inputs: Tensor) -> BatchMoments:
    """What `batch_moments` returns, by PyTorch's kernel: centered first, one block after the other.

    At mean 1e3 and variance 1e-2 its variance is off by 1e-5, ours by 2e-7. Uncentered, the kernel would be faster than
    ours, and wrong by a tenth.
    """
    channels, count = inputs.shape[1], inputs.numel() // inputs.shape[1]
    rows = inputs.movedim(1, -1).reshape(count, channels)
    middle = rows[::16].mean(0, dtype=torch.float32)
    mean, squares = torch.zeros(2, channels, dtype=torch.float64)
    done = 0
    for block in rows.split(max(1, 2**18 * torch.get_num_threads() // channels)):
        of_block = torch.zeros(2, channels)
        centered = (block - middle).view(1, 1, -1, channels).permute(0, 3, 1, 2)
        torch.batch_norm_update_stats(centered, of_block[0], of_block[1], 1.0)
        change = of_block[0].double() - mean
        more, done = len(block), done + len(block)
        mean += change * more / done
        squares += of_block[1].double() * (more - 1) + change.square() * (done - more) * more / done
    return BatchMoments(torch.stack([middle + mean, squares / max(count - 1, 1)]), count)


def with_kernel(model: nn.Module, batches: list[Tensor]) -> None:
    """The conversion's pass, with PyTorch's kernel on what is centered."""
    with patch(f'{collect_statistics.__module__}.batch_moments', kernel_moments):
        ours(model, batches)


def fvcore(model: nn.Module, batches: list[Tensor]) -> None:
    """fvcore's PreciseBN, as detectron2's hook calls it."""
    model.train()
    update_bn_stats(model, batches, len(batches))


class _Preprocessed(nn.Module):
    """A model whose mini-batches need no preprocessing, in the form that mmpretrain's hook has it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def data_preprocessor(self, batch: Tensor, training: bool) -> dict[str, Tensor]:
        return {'x': batch}

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


class _Loader(list):
    batch_size = 1  # as many samples as mini-batches


def mmpretrain(model: nn.Module, batches: list[Tensor]) -> None:
    """What mmpretrain's PreciseBNHook calls."""
    model.train()
    with patch(f'{precise_bn.__module__}.ProgressBar'):
        precise_bn(_Preprocessed(model), _Loader(batches), len(batches), logger='silent')


def swa(model: nn.Module, batches: list[Tensor]) -> None:
    """torch.optim.swa_utils.update_bn."""
    update_bn(batches, model)


def compare_passes(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Measure all ways, and return their rows under the table's title."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = segmentor(args.base_channels).to(args.device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    batches = [torch.randn(args.batch_size, 3, args.size, args.size, device=args.device).contiguous(
        memory_format=layout) for _ in range(args.batches)]
    model.to(memory_format=layout)
    start = copy.deepcopy(model.state_dict())

    def with_autocast(way: Callable[..., None], module: nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast(args.device.type, torch.bfloat16, enabled=args.dtype == 'bfloat16'):
                way(module, batches)
        return run

    ways = {'bare evaluation pass': bare, 'ours': ours, 'var_mean hooks': naive, 'fvcore update_bn_stats': fvcore,
            "mmpretrain PreciseBNHook's": mmpretrain, 'torch update_bn': swa}
    if args.channels_last and args.device.type == 'cpu':
        ways["ours, by PyTorch's kernel"] = with_kernel
    for name, function in (('fvcore update_bn_stats', update_bn_stats), ("mmpretrain PreciseBNHook's", precise_bn)):
        if function is None:
            del ways[name]
    runs = {name: with_autocast(way, model.backbone) for name, way in ways.items()}
    if args.whole_model:
        others = {name: way for name, way in ways.items() if way not in (bare, ours, with_kernel)}
        runs.update({f'{name}, whole model': with_autocast(way, model) for name, way in others.items()})
    rows = measure.compare(runs, args.repeats, args.device, lambda: model.load_state_dict(start))
    title = (f'Statistics pass, ResNet-50, {args.batch_size} x {args.size}², {args.dtype}'
             f'{", channels last" if args.channels_last else ""}, {args.device}')
    return {title: rows}


def main() -> None:
    """Measure, print the table, write the results."""
    args = parse_args()
    tables = compare_passes(args)
    measure.show(tables)
    setting = {key: str(value) for key, value in vars(args).items() if key != 'results'}
    name = f'statistics_pass_{args.dtype}{"_channels-last" if args.channels_last else ""}'
    print(measure.save(name, setting, tables, args.device, args.results))


if __name__ == '__main__':
    main()
