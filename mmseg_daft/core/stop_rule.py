"""When a pass has seen enough mini-batches: the standard error of its statistics."""

from dataclasses import dataclass

import torch

from mmseg_daft.core.arguments import POSITIVE, check_arguments, whole
from mmseg_daft.core.statistics import BatchMeans


@dataclass(frozen=True)
class StopRule:
    """End a pass once the statistics of every layer are known well enough.

    A statistic is a mean over mini-batches, so its standard error is the standard deviation over the mini-batches
    divided by the square root of their number. It is put in relation to what matters, sqrt(Σt + ε) for Mt and Σt + ε
    for Σt; a layer's error is the root mean square over its channels. A few mini-batches can underestimate it, hence
    the minimum.

    Attributes:
        error: The largest relative standard error that the means or variances of any layer may have.
        min_batches: Mini-batches, over all ranks, that every layer has to see in any case.

    Raises:
        ValueError: A value is out of range.
    """

    error: float
    min_batches: int = 16

    def __post_init__(self) -> None:
        check_arguments('StopRule', vars(self), dict(error=POSITIVE, min_batches=whole(2)))

    def __call__(self, means: BatchMeans) -> bool:
        """Return whether every layer is known well enough."""
        if min(means.num_batches.values(), default=0) < self.min_batches:
            return False
        errors = []
        for call, n in means.num_batches.items():
            scale = means.values[call][1] + means.layers[call[0]].eps
            error = means.squares[call] / (n * (n - 1)) / torch.stack([scale, scale**2])  # squared and relative
            errors.append(error.mean(1))
        return bool((torch.stack(errors) <= self.error**2).all())
