"""Target statistics of batch-norm inputs: lines 1 to 3 of Algorithm 1 (Ha, Jeong, Lee, AAAI 2024).

The pre-trained network runs in eval mode over the mini-batches of the target training data. At each batch-norm layer's
*input* the mean μ and the biased variance σ² of the mini-batch are taken per channel, over its m elements (for images
N·H·W); the target statistics are their means over the mini-batches,

    Mt = E_B[μ],    Σt = E_B[m / (m - 1) · σ²].

Every mini-batch counts once, also a short last one; a layer skips one with a single element per channel, which has
no variance. Σt is *not* the variance pooled over the data set: batch statistics are what the training that follows
normalizes with. A layer that runs twice in one forward pass contributes two mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as integers
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import BatchNorm, eval_mode

if TYPE_CHECKING:
    from mmseg_daft.core.ranks import Ranks
    from mmseg_daft.core.stop_rule import StopRule


class BatchMoments(NamedTuple):
    """Moments of one batch-norm layer's input in one forward pass.

    Attributes:
        values: μ and the unbiased variance m/(m-1)·σ², ``(2, C)`` in float64; the variance is 0 if m is 1.
        count: m, the number of elements per channel.
    """

    values: Tensor
    count: int


Call = tuple[str, int]
"""A call of a layer in a forward pass: the layer's name, and how often it was called before."""
Moments = dict[Call, BatchMoments]


@dataclass
class LayerStatistics:
    """Target statistics of one batch-norm layer's input.

    Attributes:
        mean, var: Mt and Σt, ``(C,)``, float64.
        num_batches: Over how many mini-batches, of all ranks, these are means. If 0, the layer was never reached.
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
    ranks: Ranks | None = None,
) -> dict[str, LayerStatistics]:
    """Run Algorithm 1's pass and return the target statistics of each layer, by name.

    The model is in eval mode meanwhile, without gradients; its modes and tensors are restored, also after an error.

    Args:
        model: The pre-trained model.
        layers: The batch-norm layers to observe, by name.
        batches: Mini-batches; with several ranks this rank's, of which another may have more, fewer or none.
        forward: Runs the model, or the part of it that holds the layers, on a mini-batch.
        by_batch: Let the layers normalize by the mini-batch instead of by the source's statistics. Then each sees what
            it will see once the layers before it are adapted without compensation (AdaBN).
        stop: Says after each mini-batch whether the statistics are known well enough.
        ranks: The ranks that share the pass, if there are several.

    Raises:
        ValueError: A layer saw nothing but single elements per channel, or a value was NaN or infinite.
        RuntimeError: Several ranks are initialized and ``ranks`` is not given, or another rank failed.
    """
    if ranks is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(f'Each of the {dist.get_world_size()} ranks would take statistics of its own share alone: '
                           'pass ranks=mmseg_daft.core.Ranks(device) on every rank.')
    means = BatchMeans(layers)
    with eval_mode(model), torch.no_grad(), _observed(layers, by_batch, ranks) as calls:

        def rounds() -> Iterator[Moments]:
            for batch in batches:
                calls.clear()
                forward(batch)  # meanwhile the layers fill `calls`
                yield calls

        for of_ranks in ranks.rounds(rounds(), layers, by_batch) if ranks else ([moments] for moments in rounds()):
            for moments in of_ranks:
                means.add(moments)
            if stop is not None and (ranks.largest(stop(means)) if ranks else stop(means)):
                break
        if ranks:
            ranks.agree(list(means.values.values()))
    return means.by_layer()


@contextmanager
def _observed(layers: Mapping[str, BatchNorm], by_batch: bool, ranks: Ranks | None) -> Iterator[Moments]:
    """Yield a dictionary that takes in the moments of a layer's input whenever one of the layers is called."""
    calls: Moments = {}

    def observe(name: str, layer: BatchNorm, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        moments = batch_moments((args[0] if args else kwargs['input']).detach())
        calls[name, next(k for k in integers() if (name, k) not in calls)] = moments
        if by_batch:  # in eval mode a layer normalizes by its running statistics
            (mean, var), m = ranks.joint(layer, moments) if ranks else moments
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var * (1 - 1 / m))

    own = {name: (layer.running_mean.clone(), layer.running_var.clone()) for name, layer in layers.items() if by_batch}
    handles = [layer.register_forward_pre_hook(
        lambda layer, args, kwargs, name=name: observe(name, layer, args, kwargs), with_kwargs=True)
        for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        for name, (mean, var) in own.items():
            layers[name].running_mean.copy_(mean)
            layers[name].running_var.copy_(var)


class BatchMeans:
    """E_B[μ] and E_B[m/(m-1)·σ²] over the mini-batches so far, for each call of a layer in a forward pass.

    Attributes:
        num_batches: How many mini-batches counted, by call.
        values: Mt and Σt so far, ``(2, C)`` in float64, by call.
        squares: Sums of the squared deviations of the mini-batches from them, of the same shape.
    """

    def __init__(self, layers: Mapping[str, BatchNorm]) -> None:
        self.layers = layers
        self.num_batches: dict[Call, int] = {}
        self.values: dict[Call, Tensor] = {}
        self.squares: dict[Call, Tensor] = {}

    def add(self, moments: Moments) -> None:
        """Add a mini-batch; a layer with fewer than two elements per channel has no variance to add."""
        for call, (values, count) in moments.items():
            if call not in self.values:
                self.num_batches[call] = 0
                self.values[call], self.squares[call] = values.new_zeros(2, *values.shape)
            self.num_batches[call] += count > 1
        counted = [call for call, (_, count) in moments.items() if count > 1]
        if counted:  # a few kernels for all layers, where one layer after the other would take a thousand
            new = [moments[call].values for call in counted]
            means, squares = [self.values[call] for call in counted], [self.squares[call] for call in counted]
            change = torch._foreach_sub(new, means)
            torch._foreach_add_(means, torch._foreach_div(change, [float(self.num_batches[call]) for call in counted]))
            torch._foreach_add_(squares, torch._foreach_mul(change, torch._foreach_sub(new, means)))

    def by_layer(self) -> dict[str, LayerStatistics]:
        """Return each layer's statistics; its calls within a forward pass each count as a mini-batch.

        Raises:
            ValueError: As in ``collect_statistics``.
        """
        result = {}
        for name, layer in self.layers.items():
            calls = [call for call in self.values if call[0] == name]
            total = sum(self.num_batches[call] for call in calls)
            values = sum((self.values[call] * (self.num_batches[call] / max(total, 1)) for call in calls), torch.zeros(
                2, layer.num_features, dtype=torch.float64, device=layer.running_mean.device))
            if calls and total == 0:
                raise ValueError(
                    f'Batch-norm layer {name!r} only ever saw a single element per channel (one image, a 1x1 map), '
                    'which has no variance. Use a larger batch_size or larger crops, as training itself needs.')
            if not torch.isfinite(values).all():
                raise ValueError(
                    f'The statistics of batch-norm layer {name!r} are NaN or infinite. Look for NaN in the images and '
                    'in the pre-trained weights, and for overflow under half-precision AMP (bfloat16 has the range of '
                    'float32).')
            result[name] = LayerStatistics(*values, total)
        return result


def batch_moments(inputs: Tensor) -> BatchMoments:
    """Return the moments of a mini-batch ``(N, C, *)`` of any floating type, in one pass over memory.

    Everything is centered before it is squared, so mean 1e3 with variance 1e-2 comes out right, and is summed in
    float32 or better. The center is the mean of a sixteenth of the elements: even if all others were equal, it would be
    within four standard deviations of the mean, so almost no digits cancel. On a GPU PyTorch's own kernel does about
    that (such a variance is right to 1e-3), but rounds the means of strided float16 to float16: those are copied.
    """
    channels, count = inputs.shape[1], inputs.numel() // inputs.shape[1]
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    last = inputs.movedim(1, -1)
    if inputs.is_cuda and count > 1:
        values = torch.zeros(2, channels, dtype=dtype, device=inputs.device)
        dense = inputs if inputs.is_contiguous() or last.is_contiguous() else inputs.contiguous()
        torch.batch_norm_update_stats(dense, values[0], values[1], 1.0)
        return BatchMoments(values.double(), count)
    center, first, second = torch.zeros(3, channels, dtype=torch.float64, device=inputs.device)
    elements = 2**18 * min(torch.get_num_threads(), 16)  # 1 MiB in float32 for each thread's cache
    if last.is_contiguous() or inputs.dim() == 2:  # channels last, or vectors: one block of rows after the other
        rows = last.reshape(count, channels)
        middle = rows[::16].mean(0, dtype=dtype)
        center += middle
        for block in rows.split(max(1, elements // channels)):
            centered = block - middle
            first += centered.sum(0)
            second += centered.square_().sum(0)
    else:
        maps = inputs.flatten(2)
        size = max(1, elements // count)
        for c in (slice(i, i + size) for i in range(0, channels, size)):  # one group of channels after the other
            middle = maps[:, c, :-(-maps.shape[2] // 16)].mean((0, 2), keepdim=True, dtype=dtype)
            centered = maps[:, c] - middle
            center[c] = middle.flatten()
            first[c] = centered.sum((0, 2))
            second[c] = centered.square_().sum((0, 2))
    shift = first / count
    var = ((second - first * shift) / max(count - 1, 1)).clamp(min=0)
    return BatchMoments(torch.stack([center + shift, var]), count)
