"""How far the target domain lies from the source, as a batch-norm layer sees it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.statistics import LayerStatistics


class DomainShift(NamedTuple):
    """The distance between a layer's source and target statistics, averaged over its channels.

    Attributes:
        mean_shift: |Mt - Ms| / sqrt(Σs + ε): in standard deviations of the source.
        log_var_ratio: |ln((Σt + ε) / (Σs + ε))|: 0.69 where variances differ by a factor of two.
    """

    mean_shift: float
    log_var_ratio: float


@torch.no_grad()
def domain_shift(layer: BatchNorm, statistics: LayerStatistics) -> DomainShift:
    """Compare a layer's running statistics, before its conversion, with the target's."""
    var = layer.running_var.double() + layer.eps
    return DomainShift(
        mean_shift=float(((statistics.mean - layer.running_mean).abs() / var.sqrt()).mean()),
        log_var_ratio=float(torch.log((statistics.var + layer.eps) / var).abs().mean()))
