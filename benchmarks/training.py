"""What two parameter groups, ranks and a stop rule change: optimizer step, training iteration, passes of many sizes.

    python benchmarks/training.py [--device cpu] [--size 128] [--batch-size 2] [--repeats 7]

The statistics of 2 ranks run on one core each, beside 1 rank on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measure
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from statistics_pass import segmentor
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.ranks import current_ranks
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.core.stop_rule import StopRule


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', type=torch.device)
    parser.add_argument('--size', type=int, default=128, help='of the square images')
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--batches', type=int, default=8, help='of the passes')
    parser.add_argument('--stop-error', type=float, default=0.05, help='at which a pass may end early')
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--base-channels', type=int, default=64, help='64 is ResNet-50; less is for tests')
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    return parser.parse_args(argv)


SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
STOCK = dict(optimizer=SGD)
CUSTOM_KEYS = dict(optimizer=SGD, paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))
OURS = dict(optimizer=SGD, constructor='DAFTOptimWrapperConstructor', paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.1))


def optimizer_steps(model: nn.Module, multi_tensor: bool) -> dict[str, Callable[[], Any]]:
    """Return an optimizer step of each kind, over the same parameters and gradients.

    Args:
        model: Whose parameters; each gets a gradient.
        multi_tensor: Take all tensors of a group at once (``foreach``), which PyTorch does by itself on a GPU alone.
    """
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-6)
    kinds = {'ours, two groups': OURS, 'mmengine custom_keys': CUSTOM_KEYS, 'stock, one rate': STOCK}
    return {name: build_optim_wrapper(model, dict(cfg, optimizer=dict(SGD, foreach=multi_tensor))).optimizer.step
            for name, cfg in kinds.items()}


def iterations(model: nn.Module, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return a whole training iteration of each kind."""
    inputs = torch.randn(args.batch_size, 3, args.size, args.size, device=args.device)
    labels = torch.randint(0, 21, (args.batch_size, 1, args.size, args.size), device=args.device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]

    def iteration(wrapper: Any) -> Callable[[], Any]:
        def run() -> None:
            model.train()
            wrapper.update_params(model.parse_losses(model.loss(inputs, samples))[0])
        return run

    kinds = {'stock mmseg, one rate': STOCK, 'ours, two groups': OURS, 'mmengine custom_keys': CUSTOM_KEYS}
    return {name: iteration(build_optim_wrapper(model, dict(cfg))) for name, cfg in kinds.items()}


def collect(model: nn.Module, batches: list[Tensor], stop: StopRule | None = None) -> int:
    """Run a pass and return how many mini-batches it took."""
    statistics = collect_statistics(model, find_batch_norms(model, ('',)), batches, model, stop=stop,
                                    ranks=current_ranks(torch.device('cpu')))
    return max(s.num_batches for s in statistics.values())


def on_ranks(ranks: int, args: argparse.Namespace) -> list[float]:
    """Return the seconds of a pass over all mini-batches, shared by some ranks, in every repeat."""
    with TemporaryDirectory() as folder:
        mp.start_processes(_rank, (ranks, args, folder), nprocs=ranks, start_method='spawn')
        return torch.load(f'{folder}/seconds.pt')


def _rank(rank: int, ranks: int, args: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/rendezvous', rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = segmentor(args.base_channels).backbone
    batches = _batches(args, args.batches)[rank::ranks]
    rows = measure.compare({'pass': lambda: collect(model, batches)}, args.repeats, torch.device('cpu'), dist.barrier)
    if rank == 0:
        torch.save(rows[0]['seconds'], f'{folder}/seconds.pt')
    dist.destroy_process_group()


def _batches(args: argparse.Namespace, count: int) -> list[Tensor]:
    return [torch.randn(args.batch_size, 3, args.size, args.size, device=args.device) for _ in range(count)]


def main() -> None:
    """Measure, print the tables, write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = segmentor(args.base_channels).to(args.device)
    shape = f'{args.batch_size} x {args.size}², {args.device}'
    tables = {
        f'Optimizer step, DeepLabv3+ on ResNet-50, {name}': measure.compare(
            optimizer_steps(model, multi_tensor), args.repeats, args.device)
        for name, multi_tensor in (('multi-tensor, as on GPUs', True), ('one tensor after the other', False))}
    tables.update({
        f'Training iteration, {shape}': measure.compare(iterations(model, args), args.repeats, args.device)})
    backbone = segmentor(args.base_channels).to(args.device).backbone  # the other one was trained on noise
    small, rule = _batches(args, args.batches), StopRule(args.stop_error, 2)
    known = f'{args.stop_error:.0%} known after {collect(backbone, small * 10, rule)}, of'
    passes = {
        f'whole pass, {args.batches} mini-batches': lambda: collect(backbone, small),
        f'whole pass, {10 * args.batches}': lambda: collect(backbone, small * 10),
        f'{known} {args.batches}': lambda: collect(backbone, small, rule),
        f'{known} {10 * args.batches}': lambda: collect(backbone, small * 10, rule)}
    tables[f'Data ten times as many, {shape}'] = measure.compare(passes, min(args.repeats, 3), args.device)
    if args.device.type == 'cpu':
        title = f'{args.batches} mini-batches over ranks with a core each, {shape}'
        one, two = ({'name': f'{n} rank{"s" if n > 1 else ""}', 'seconds': on_ranks(n, args)} for n in (1, 2))
        for row in (one, two):
            ratios = sorted(a / b for a, b in zip(row['seconds'], one['seconds'], strict=True))
            row.update(ratio=ratios[len(ratios) // 2], quartiles=[ratios[0], ratios[-1]], extra_bytes=0, peak_bytes=1)
        tables[title] = [one, two]
    measure.show(tables)
    print(measure.save('training', {k: str(v) for k, v in vars(args).items() if k != 'results'}, tables, args.device,
                       args.results))


if __name__ == '__main__':
    main()
