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

Means over mini-batches, of all layers at once, and how well they are known.

Let batch-norm layers in test mode normalise by mini-batch, as adapted layers would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import BatchNorm, eval_mode
from mmseg_daft.core.moments import BatchMoments, batch_moments, join, mean_and_var
from mmseg_daft.core.ranks import RankExchange, Round
from mmseg_daft.core.stop_rule import StopRule


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
    with eval_mode(model), torch.no_grad(), normalisation or nullcontext(), _observed(layers, normalisation) as calls:
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


class RunningStatistics:
    """E_B[μ] and E_B[m/(m-1)·σ²] over the mini-batches so far, with their spread, channels side by side.

    A handful of operations on long vectors, where one layer after the other would take a thousand small ones
    for every mini-batch. Channels may be added at the end meanwhile.

    Attributes:
        num_batches: Mini-batches that counted, ``(channels,)``, float64.
        values: Mt and Σt so far, ``(2, channels)``, float64.
    """

    def __init__(self, device: torch.device) -> None:
        self.num_batches = torch.zeros(0, dtype=torch.float64, device=device)
        self.values = torch.zeros(2, 0, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.values)  # sums of squared deviations of the mini-batches' values

    def add(self, moments: Round, joint: Tensor) -> None:
        """Take the ranks' mini-batches into the means, one after the other.

        A mini-batch with fewer than two elements per channel does not count there: it has no variance.

        Args:
            moments: The ranks' moments of one round.
            joint: Channels where all ranks' mini-batches are one, bool of shape ``(channels,)``.
        """
        more = (0, len(joint) - len(self.num_batches))
        self.num_batches, self.values, self._squares = (
            F.pad(tensor, more) for tensor in (self.num_batches, self.values, self._squares))
        values = torch.stack([moments.mean, moments.unbiased_var], 1)
        counts = moments.count
        if len(counts) > 1:
            mean, var, total = join(moments.mean, moments.unbiased_var, counts)
            values = torch.where(joint, torch.stack([mean, var]), values)
            counts = torch.where(joint, F.pad(total[None], (0, 0, 0, len(counts) - 1)), counts)  # once
        for value, count in zip(values, counts, strict=True):
            seen = count > 1
            self.num_batches += seen
            change = torch.where(seen, value - self.values, 0)
            self.values += change / self.num_batches.clamp(min=1)
            self._squares += change * torch.where(seen, value - self.values, 0)

    def known(self, rule: StopRule, slots: Tensor, eps: Tensor) -> bool:
        """Whether all statistics are as well known as a rule wants them.

        Args:
            rule: The rule.
            slots: The number of channels of each slot.
            eps: ε of each channel.
        """
        n, scale = self.num_batches, self.values[1] + eps
        error = self._squares / (n * (n - 1)).clamp(min=1) / torch.stack([scale, scale**2])  # squared and relative
        error = torch.where(n > 1, error, torch.inf)
        slot = torch.arange(len(slots), device=slots.device).repeat_interleave(slots, output_size=len(n))
        mean_error = error.new_zeros(2, len(slots)).index_add_(1, slot, error) / slots
        return bool((mean_error <= rule.error**2).all() & (n >= rule.min_batches).all())


class BatchNormalisation:
    """Write a mini-batch's moments where a layer in test mode looks for its running statistics.

    Unlike training mode this works for SyncBatchNorm on CPUs as well, needs no batch on every rank, and leaves the
    counters alone. A context manager: the layers' own tensors are back afterwards.

    Args:
        layers: The layers, by name.

    Attributes:
        joint: Names of the layers that normalise by all ranks' mini-batches together; each call of one is a
            collective, so all ranks have to run forward passes side by side.
        idle: This rank's mini-batch is a stand-in and does not count in them.
    """

    def __init__(self, layers: Mapping[str, BatchNorm]) -> None:
        self.layers = layers
        self.ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.joint = {name for name, layer in layers.items() if self.ranks > 1 and isinstance(layer, nn.SyncBatchNorm)}
        self.idle = False

    def __enter__(self) -> BatchNormalisation:
        """Keep copies of the running statistics."""
        self._own = {n: (layer.running_mean.clone(), layer.running_var.clone()) for n, layer in self.layers.items()}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put the running statistics back."""
        for name, (mean, var) in self._own.items():
            self.layers[name].running_mean.copy_(mean)
            self.layers[name].running_var.copy_(var)

    def apply(self, name: str, moments: BatchMoments) -> None:
        """Let a layer normalise its next input by these moments."""
        (mean, var), count = mean_and_var(moments.sums.double(), moments.count), moments.count
        if name in self.joint:
            mine = torch.stack([mean, var, torch.full_like(mean, 0 if self.idle else count)])
            everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
            dist.all_gather(everyone, mine)
            mean, var, total = join(*torch.stack(everyone, 1))
            count = max(int(total[0]), 1)
        self.layers[name].running_mean.copy_(mean)
        self.layers[name].running_var.copy_(var * (1 - 1 / count))
