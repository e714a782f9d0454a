"""Target statistics of batch-norm inputs: lines 1 to 3 of Algorithm 1 (Ha, Jeong, Lee, AAAI 2024).

The pre-trained network runs in test mode over the mini-batches of the target training data. At each
batch-norm layer's *input* the mean μ and the biased variance σ² of the mini-batch are taken per
channel; the target statistics are their means over the mini-batches,

    Mt = E_B[μ],    Σt = E_B[m / (m - 1) · σ²].

Every mini-batch counts once, also a short last one; only where it leaves a layer a single element per channel, whose
variance is undefined, that layer passes it over. Σt is *not* the variance pooled over the data
set: batch statistics are what the training that follows will normalise with. A layer used twice in
one forward pass contributes two mini-batches.

Over several ranks a mini-batch is what the layer's training will take it for: each rank's own for
BatchNorm, all ranks' together for SyncBatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmseg_daft.core.batch_moments import BatchMoments, batch_moments, over_ranks
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.test_mode import test_mode


@dataclass
class LayerStatistics:
    """Target statistics of one batch-norm layer's input.

    Attributes:
        mean: Mt, float64 of shape ``(C,)``.
        var: Σt, float64 of shape ``(C,)``.
        num_batches: How many mini-batches, over all ranks, these are means of. Where it is 0 the
            layer was never reached and the two tensors mean nothing.
    """

    mean: Tensor
    var: Tensor
    num_batches: int = 0

    def add(self, moments: BatchMoments) -> None:
        """Take one more mini-batch into the means."""
        self.num_batches += 1
        self.mean += (moments.mean - self.mean) / self.num_batches
        self.var += (moments.unbiased_var - self.var) / self.num_batches


def collect_statistics(
    model: nn.Module,
    layers: Mapping[str, BatchNorm],
    batches: Iterable[Any],
    forward: Callable[[Any], Any],
    by_batch: bool = False,
) -> dict[str, LayerStatistics]:
    """Run Algorithm 1's pass and return the target statistics of each layer, by name.

    The model is in test mode meanwhile, without gradients; its modes are restored also after an error.
    With an initialised process group every rank has to call this, with as many batches as the others.

    Args:
        model: The pre-trained model.
        layers: The batch-norm layers to observe, by name.
        batches: This rank's mini-batches; ``None`` where it has no share in one.
        forward: Runs the model, or the part of it that holds the layers, on a mini-batch.
        by_batch: Let these layers normalise by the mini-batch instead of by the source's statistics. Then each
            sees what it will see once those before it are adapted without compensation, as AdaBN needs it;
            with compensation (Algorithm 1) that is what it sees anyway.

    Raises:
        ValueError: A layer saw nothing but single elements per channel, or a value was NaN or infinite.
    """
    statistics = {}
    for name, layer in layers.items():
        zeros = torch.zeros(layer.num_features, dtype=torch.float64, device=layer.running_mean.device)
        statistics[name] = LayerStatistics(zeros, zeros.clone())
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    synchronised = {n for n, layer in layers.items() if ranks > 1 and isinstance(layer, nn.SyncBatchNorm)}
    order: list[str] | None = None  # of the calls of synchronised layers within a mini-batch
    single: set[str] = set()  # layers that saw a mini-batch of one element per channel

    with test_mode(model), torch.no_grad(), _observed(layers) as calls, _normalising_by_batch(by_batch, layers):
        for batch in batches:
            calls.clear()
            if batch is not None:
                forward(batch)
            if synchronised and order is None:
                order = _agree_on_order([name for name, _ in calls if name in synchronised])
            if order:
                mine = [moments for name, moments in calls if name in synchronised]
                everyone = over_ranks(
                    mine, [layers[name].num_features for name in order], statistics[order[0]].mean.device)
                calls[:] = [call for call in calls if call[0] not in synchronised]
                calls.extend(zip(order, everyone, strict=True))
            for name, moments in calls:
                if moments.count > 1:
                    statistics[name].add(moments)
                else:
                    single.add(name)

    if ranks > 1:
        _reduce({n: s for n, s in statistics.items() if n not in synchronised}, statistics)
    for name, s in statistics.items():
        if name in single and s.num_batches == 0:
            raise ValueError(
                f'Batch-norm layer {name!r} only ever saw a single element per channel (one image, a 1x1 map), whose '
                'variance is undefined. Use a larger batch_size or larger crops, as training itself needs.')
        if not (torch.isfinite(s.mean).all() and torch.isfinite(s.var).all()):
            raise ValueError(
                f'The statistics of batch-norm layer {name!r} are NaN or infinite. Look for NaN in the '
                'images and in the pre-trained weights, and for overflow under half-precision AMP '
                "(dtype='bfloat16' has float32's range).")
    return statistics


@contextmanager
def _normalising_by_batch(wanted: bool, layers: Mapping[str, BatchNorm]) -> Iterator[None]:
    """Put layers in training mode, but for the update of their running statistics; test_mode() ends the mode."""
    tracking = {layer: layer.track_running_stats for layer in layers.values() if wanted}
    try:
        for layer in tracking:
            layer.training, layer.track_running_stats = True, False
        yield
    finally:
        for layer, before in tracking.items():
            layer.track_running_stats = before


@contextmanager
def _observed(layers: Mapping[str, BatchNorm]) -> Iterator[list[tuple[str, BatchMoments]]]:
    """Yield a list that grows by (name, moments) whenever one of the layers is called."""
    calls: list[tuple[str, BatchMoments]] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: calls.append(
                (name, batch_moments((args[0] if args else kwargs['input']).detach()))),
            with_kwargs=True)
        for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _agree_on_order(mine: list[str]) -> list[str]:
    """Return rank 0's order of calls: it has a share in every mini-batch, other ranks may have none."""
    shared = [mine]
    dist.broadcast_object_list(shared, src=0)
    if mine and mine != shared[0]:
        raise RuntimeError('The ranks call their batch-norm layers in different orders; statistics over '
                           'SyncBatchNorm layers need one order on all ranks.')
    return shared[0]


def _reduce(own: Mapping[str, LayerStatistics], everything: Mapping[str, LayerStatistics]) -> None:
    """Average over ranks the statistics that each rank took alone, weighted by their numbers of batches.

    Rank 0's result is then everybody's, of all layers, to the last bit.
    """
    if own:
        sums = torch.cat([
            torch.cat([s.mean.new_tensor([s.num_batches]), s.mean * s.num_batches, s.var * s.num_batches])
            for s in own.values()])
        dist.all_reduce(sums)
        sizes = [2 * len(s.mean) + 1 for s in own.values()]
        for s, block in zip(own.values(), sums.split(sizes), strict=True):
            s.num_batches = int(block[0])
            s.mean, s.var = (block[1:] / max(s.num_batches, 1)).chunk(2)
    result = torch.cat([torch.cat([s.mean, s.var]) for s in everything.values()])
    dist.broadcast(result, src=0)
    for s, block in zip(everything.values(), result.split([2 * len(s.mean) for s in everything.values()]), strict=True):
        s.mean, s.var = block.chunk(2)
