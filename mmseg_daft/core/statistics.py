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
BatchNorm, all ranks' together for SyncBatchNorm. The ranks exchange moments after each mini-batch, so every rank ends
with what one process alone would have computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmseg_daft.core.batch_moments import BatchMoments, batch_moments
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.batch_normalisation import BatchNormalisation
from mmseg_daft.core.rank_exchange import RankExchange
from mmseg_daft.core.running_statistics import RunningStatistics
from mmseg_daft.core.stopping import StopRule
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


def collect_statistics(
    model: nn.Module,
    layers: Mapping[str, BatchNorm],
    batches: Iterable[Any],
    forward: Callable[[Any], Any],
    by_batch: bool = False,
    stop: StopRule | None = None,
) -> dict[str, LayerStatistics]:
    """Run Algorithm 1's pass and return the target statistics of each layer, by name.

    The model is in test mode meanwhile, without gradients; its modes and tensors are restored also after an error.
    With an initialised process group every rank has to call this; what fails on one rank, fails on all. (SyncBatchNorm
    ``by_batch`` takes a collective for every call: there a failed rank ends at once, the others by the broken group.)

    Args:
        model: The pre-trained model.
        layers: The batch-norm layers to observe, by name.
        batches: This rank's mini-batches; another rank may have more, or fewer, or none. In each round every
            rank takes one.
        forward: Runs the model, or the part of it that holds the layers, on a mini-batch.
        by_batch: Let these layers normalise by the mini-batch instead of by the source's statistics. Then each
            sees what it will see once those before it are adapted without compensation, as AdaBN needs it;
            with compensation (Algorithm 1) that is what it sees anyway.
        stop: End the pass when the statistics are known this well; ``None`` for all mini-batches, as in the paper.

    Raises:
        ValueError: A layer saw nothing but single elements per channel, or a value was NaN or infinite.
        RuntimeError: Another rank failed; its message is in this one.
    """
    device = next(iter(layers.values())).running_mean.device
    exchange, statistics = RankExchange(device), RunningStatistics(device)
    normalisation = BatchNormalisation(layers) if by_batch else None
    with test_mode(model), torch.no_grad(), normalisation or nullcontext(), _observed(layers, normalisation) as calls:
        shares = iter(batches)
        side_by_side = normalisation is not None and bool(normalisation.joint)
        if side_by_side:
            shares = _one_at_least(shares, exchange)
        batch = channels = joint = eps = None
        finished = False
        while True:
            calls.clear()
            error = None
            try:
                following = _END if finished else next(shares, _END)
                finished = following is _END
                if not finished:
                    batch = following
                    forward(batch)
                elif side_by_side:  # the others' layers wait for this rank's
                    normalisation.idle = True
                    forward(batch)
            except Exception as failure:
                if side_by_side:
                    raise
                error = failure
            moments = exchange.share(() if finished else calls, error, finished)
            if moments is None:
                break
            if channels is None or len(channels) < len(exchange.slots):
                channels = exchange.channels()
                joint, eps = _by_channel(exchange, layers)
            statistics.add(moments, joint)
            if stop is not None and statistics.known(stop, channels, eps):
                break
    return _by_layer(layers, exchange, statistics)


_END = object()


def _one_at_least(shares: Iterator[Any], exchange: RankExchange) -> Iterator[Any]:
    """Check that every rank has a mini-batch, which can stand in once it has no more."""
    first, error = _END, None
    try:
        first = next(shares, _END)
    except Exception as failure:
        error = failure
    if first is _END and error is None:
        error = ValueError(
            f'There are fewer mini-batches than the {exchange.ranks} ranks, and SyncBatchNorm that normalises by '
            'mini-batch (compensate=False) needs one on each. Use fewer ranks or a smaller batch_size.')
    exchange.share((), error)
    return chain([first], shares)


@contextmanager
def _observed(
    layers: Mapping[str, BatchNorm], normalisation: BatchNormalisation | None,
) -> Iterator[list[tuple[str, BatchMoments]]]:
    """Yield a list that grows by (name, moments) whenever one of the layers is called."""
    calls: list[tuple[str, BatchMoments]] = []

    def observe(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        moments = batch_moments((args[0] if args else kwargs['input']).detach())
        calls.append((name, moments))
        if normalisation is not None:
            normalisation.apply(name, moments)

    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: observe(name, args, kwargs), with_kwargs=True)
        for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _by_channel(exchange: RankExchange, layers: Mapping[str, BatchNorm]) -> tuple[Tensor, Tensor]:
    """Return for each channel whether all ranks' mini-batches are one there, and ε."""
    facts = [[exchange.ranks > 1 and isinstance(layers[name], nn.SyncBatchNorm), layers[name].eps]
             for name, _ in exchange.slots]
    joint, eps = torch.tensor(facts, dtype=torch.float64, device=exchange.device).repeat_interleave(
        exchange.channels(), dim=0).T
    return joint > 0, eps


def _by_layer(
    layers: Mapping[str, BatchNorm], exchange: RankExchange, statistics: RunningStatistics,
) -> dict[str, LayerStatistics]:
    """Take the channels apart; a layer's calls within a forward pass are mini-batches of their own."""
    if exchange.ranks > 1:
        dist.broadcast(statistics.values, src=0)  # the last bit, should ranks run on different hardware
    parts: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in layers}
    sizes = list(exchange.slots.values())
    for (name, _), n, values in zip(
            exchange.slots, statistics.num_batches.split(sizes), statistics.values.split(sizes, dim=1), strict=True):
        parts[name].append((values, int(n[0])))
    result = {}
    for name, layer in layers.items():
        total = sum(n for _, n in parts[name])
        values = sum((values * (n / max(total, 1)) for values, n in parts[name]), torch.zeros(
            2, layer.num_features, dtype=torch.float64, device=exchange.device))
        result[name] = LayerStatistics(*values, total)
        if parts[name] and total == 0:
            raise ValueError(
                f'Batch-norm layer {name!r} only ever saw a single element per channel (one image, a 1x1 map), whose '
                'variance is undefined. Use a larger batch_size or larger crops, as training itself needs.')
        if not torch.isfinite(values).all():
            raise ValueError(
                f'The statistics of batch-norm layer {name!r} are NaN or infinite. Look for NaN in the '
                'images and in the pre-trained weights, and for overflow under half-precision AMP '
                "(dtype='bfloat16' has float32's range).")
    return result
