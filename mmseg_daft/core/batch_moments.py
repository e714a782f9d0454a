"""Mean and variance per channel of one mini-batch: one reading of memory, exact where sums of squares cancel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ELEMENTS = 2**18
"""Elements that a thread takes at a time on a CPU: 1 MiB in float32, which stays in its cache for all the sums."""


class BatchMoments(NamedTuple):
    """Moments of one batch-norm layer's input in one forward pass.

    Attributes:
        mean: μ, of shape ``(C,)``, float64 or (GPU) float32.
        unbiased_var: m / (m - 1) · σ², likewise; undefined where m is 1, and 0 then.
        count: m, the number of elements per channel (for images N·H·W).
    """

    mean: Tensor
    unbiased_var: Tensor
    count: int

    @property
    def biased_var(self) -> Tensor:
        """σ², by which training normalises."""
        return self.unbiased_var * (1 - 1 / self.count)


def batch_moments(inputs: Tensor) -> BatchMoments:
    """Return the moments of a mini-batch, per channel.

    Everything is centred before it is squared, so mean 1e3 with variance 1e-2 comes out right, and is
    added up in float32 or better for inputs of half precision. On a GPU PyTorch's own batch-norm kernel does that;
    on a CPU it is several times slower than vectorised sums over pieces that stay in the cache.

    Args:
        inputs: ``(N, C, *)`` of any floating type and memory layout.
    """
    channels = inputs.shape[1]
    count = inputs.numel() // channels
    if count < 2:
        mean = inputs.reshape(count, channels).sum(0, dtype=torch.float64)
        return BatchMoments(mean, torch.zeros_like(mean), count)
    if inputs.is_cuda:
        mean, var = torch.zeros(2, channels, dtype=_sum_type(inputs), device=inputs.device)
        torch.batch_norm_update_stats(inputs, mean, var, 1.0)
        return BatchMoments(mean, var, count)
    elements = _ELEMENTS * min(torch.get_num_threads(), 16)
    if inputs.movedim(1, -1).is_contiguous():  # channels last, or vectors: one block of rows after the other
        rows = inputs.movedim(1, -1).reshape(count, channels).split(max(1, elements // channels))
        mean, var = torch.stack([torch.stack(_centred_moments(block, (0,))) for block in rows], 1)
        counts = mean.new_tensor([len(block) for block in rows])[:, None].expand_as(mean)
        return BatchMoments(*join(mean, var, counts)[:2], count)
    groups = inputs.flatten(2).split(max(1, elements // count), dim=1)  # one group of channels after the other
    return BatchMoments(*torch.cat([torch.stack(_centred_moments(group, (0, 2))) for group in groups], 1), count)


def _centred_moments(piece: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance along some axes, in float64."""
    piece = piece.to(_sum_type(piece))
    count = math.prod(piece.shape[dim] for dim in dims)
    mean = piece.mean(dims, keepdim=True)
    centred = piece - mean
    rest = centred.mean(dims)  # what rounding left of the mean
    mean, rest, squares = torch.stack([mean.view_as(rest), rest, centred.square_().sum(dims)]).double()
    return mean + rest, ((squares - count * rest**2) / max(count - 1, 1)).clamp(min=0)


def join(means: Tensor, variances: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Join the moments of a mini-batch's parts: means are weighted by counts, nothing cancels.

    Chan, Golub, LeVeque 1983. A part may be without elements.

    Args:
        means: Of each part, ``(parts, C)``.
        variances: Of each part, unbiased, likewise.
        counts: Elements per channel of each part, likewise, in the type of the others.

    Returns:
        Mean, unbiased variance and count of the whole, each ``(C,)``.
    """
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total.clamp(min=1)
    squares = ((counts - 1).clamp(min=0) * variances + counts * (means - mean) ** 2).sum(0)
    return mean, squares / (total - 1).clamp(min=1), total


def _sum_type(inputs: Tensor) -> torch.dtype:
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32
