"""Mean and variance per channel of one mini-batch: one reading of memory, exact where sums of squares cancel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_ELEMENTS = 2**18
"""Elements that a thread takes at a time on a CPU: 1 MiB in float32, which stays in its cache for all the sums."""


class BatchMoments(NamedTuple):
    """Moments of one batch-norm layer's input in one forward pass.

    Attributes:
        sums: A centre c, Σ(z - c) and Σ(z - c)² per channel, of shape ``(3, C)``; float64, on a GPU the inputs'
            precision or float32.
        count: m, the number of elements per channel (for images N·H·W).
    """

    sums: Tensor
    count: int

    @property
    def mean(self) -> Tensor:
        """μ, float64 of shape ``(C,)``."""
        return mean_and_var(self.sums, self.count)[0]

    @property
    def unbiased_var(self) -> Tensor:
        """m / (m - 1) · σ², likewise; undefined where m is 1, and 0 then."""
        return mean_and_var(self.sums, self.count)[1]


def mean_and_var(sums: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance from the sums of ``BatchMoments``, of any number of channels."""
    count = torch.as_tensor(count)
    centre, first, second = sums
    shift = first / count.clamp(min=1)
    return centre + shift, ((second - first * shift) / (count - 1).clamp(min=1)).clamp(min=0)


def batch_moments(inputs: Tensor) -> BatchMoments:
    """Return the moments of a mini-batch, per channel.

    Everything is centred before it is squared, so mean 1e3 with variance 1e-2 comes out right, and is
    added up in float32 or better for inputs of half precision. On a GPU PyTorch's own batch-norm kernel does that;
    on a CPU it is several times slower than vectorised sums over pieces that stay in the cache.

    The centre is the mean of a sixteenth of the elements. Even if all the others were alike, it would be less than
    four standard deviations from the mean, so hardly a digit cancels; the whole mean would take one more pass.

    Args:
        inputs: ``(N, C, *)`` of any floating type and memory layout.
    """
    channels = inputs.shape[1]
    count = inputs.numel() // channels
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    if inputs.is_cuda and count > 1:
        sums = torch.zeros(3, channels, dtype=dtype, device=inputs.device)
        torch.batch_norm_update_stats(inputs, sums[0], sums[2], 1.0)
        sums[2] *= count - 1
        return BatchMoments(sums, count)
    sums = torch.zeros(3, channels, dtype=torch.float64, device=inputs.device)
    elements = _ELEMENTS * min(torch.get_num_threads(), 16)
    last = inputs.movedim(1, -1)
    if last.is_contiguous():  # channels last, or vectors: one block of rows after the other
        rows = last.reshape(count, channels)
        centre = rows[::16].mean(0, dtype=dtype)
        sums[0] = centre
        for block in rows.split(max(1, elements // channels)):
            centred = block - centre
            sums[1] += centred.sum(0)
            sums[2] += centred.square_().sum(0)
        return BatchMoments(sums, count)
    maps = inputs.flatten(2)
    size = max(1, elements // count)
    for first in range(0, channels, size):  # one group of channels after the other
        group, into = maps[:, first:first + size], sums[:, first:first + size]
        centre = group[:, :, :-(-maps.shape[2] // 16)].mean((0, 2), keepdim=True, dtype=dtype)
        centred = group - centre
        into[0] = centre.flatten()
        into[1] = centred.sum((0, 2))
        into[2] = centred.square_().sum((0, 2))
    return BatchMoments(sums, count)


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
