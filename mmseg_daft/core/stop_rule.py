"""When a pass has seen enough: the standard error of its statistics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StopRule:
    """End a pass once the statistics of every layer are known well enough.

    A statistic is a mean over mini-batches, so its standard error is the standard deviation over the mini-batches
    by the square root of their number. Per channel it is put in relation to what matters, sqrt(Σt + ε) for Mt and
    Σt + ε for Σt; a layer's error is the root mean square over its channels, as it enters the
    relative L2 change of a parameter vector. A small sample may flatter, hence the minimum.

    Attributes:
        error: The largest relative standard error that any layer's means or variances may have.
        min_batches: Mini-batches, over all ranks, that every layer has to see in any case.

    Raises:
        ValueError: A value is out of range.
    """

    error: float
    min_batches: int = 16

    def __post_init__(self) -> None:
        if not self.error > 0:
            raise ValueError(f'stop_error={self.error!r}: the relative standard error at which the pass may end is '
                             'larger than 0, for instance 0.01. Leave it out for the whole pass.')
        if self.min_batches < 2:
            raise ValueError(f'min_batches={self.min_batches!r}: a standard error needs 2 mini-batches at least.')
