"""Mean and spread per channel of one mini-batch, exact where sums of squares cancel, and over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class BatchMoments(NamedTuple):
    """Moments of one batch-norm layer's input in one forward pass.

    Attributes:
        mean: μ, float64 of shape ``(C,)``.
        squares: the sum of (z - μ)² over the batch, float64 of shape ``(C,)``; that is m·σ².
        count: m, the number of elements per channel (for images N·H·W).
    """

    mean: Tensor
    squares: Tensor
    count: int

    @property
    def unbiased_var(self) -> Tensor:
        """m / (m - 1) · σ², float64 of shape ``(C,)``; undefined where m is 1."""
        return self.squares / (self.count - 1)


def batch_moments(inputs: Tensor) -> BatchMoments:
    """Return the moments of a mini-batch, per channel.

    PyTorch's own batch-norm statistics kernels do the work: they centre before they square, so mean
    1e3 with variance 1e-2 comes out right, and they accumulate in float32 or better for inputs of
    half precision.

    Args:
        inputs: ``(N, C, *)`` of any floating type.
    """
    channels = inputs.shape[1]
    count = inputs.numel() // channels
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    mean = torch.zeros(channels, dtype=dtype, device=inputs.device)
    var = torch.zeros(channels, dtype=dtype, device=inputs.device)
    if count < 2:
        mean += inputs.reshape(count, channels).sum(0)
        return BatchMoments(mean.double(), var.double(), count)
    if inputs.device.type == 'cpu':
        # For channels-last maps the CPU kernel adds up in float32, for contiguous ones in float64.
        # That of torch 2.1 knows bfloat16, but not float16.
        inputs = inputs.float() if inputs.dtype == torch.float16 else inputs
        torch.batch_norm_update_stats(inputs.contiguous(), mean, var, 1.0)
    elif inputs.device.type == 'cuda':
        torch.batch_norm_update_stats(inputs, mean, var, 1.0)
    else:
        F.batch_norm(inputs.to(dtype), mean, var, training=True, momentum=1.0)
    return BatchMoments(mean.double(), var.double() * (count - 1), count)


def over_ranks(moments: Sequence[BatchMoments], channels: Sequence[int], device: torch.device) -> list[BatchMoments]:
    """Combine each rank's moments into those of the global mini-batch, as SyncBatchNorm normalises it.

    One collective for all layers together, whatever their number (Chan, Golub, LeVeque 1983: means
    are weighted by counts, squares are shifted to the common mean; nothing cancels).

    Args:
        moments: This rank's, one per call of a layer, in the same order on every rank; empty on a
            rank that has no share in this mini-batch.
        channels: The number of channels of each call.
        device: Where the process group communicates.

    Returns:
        The combined moments, bit-identical on every rank.
    """
    mine = torch.zeros(sum(2 * c + 1 for c in channels), dtype=torch.float64, device=device)
    if moments:
        mine = torch.cat([torch.cat([mine.new_tensor([m.count]), m.mean, m.squares]) for m in moments])
    ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, mine)

    combined = []
    for block, c in zip(torch.stack(ranks).split([2 * c + 1 for c in channels], dim=1), channels, strict=True):
        counts, means, squares = block.split([1, c, c], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        square = (squares + counts * (means - mean) ** 2).sum(0)
        combined.append(BatchMoments(mean, square, int(total)))
    return combined
