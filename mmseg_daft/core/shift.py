"""How far batch-norm statistics lie apart: source and target domain, or before and after fine-tuning.

A batch-norm layer describes its input, per channel, by a mean and a variance: a Gaussian. With source Ms, Σs and target
Mt, Σt, ε added to both variances as the layer does, the divergence is Jeffreys' (the symmetrized Kullback-Leibler one,
KL(s‖t) + KL(t‖s)), a part of the means and a part of the variances:

    J = ½ (Mt - Ms)² (1/Σs + 1/Σt)  +  ½ (Σt/Σs + Σs/Σt - 2)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shift(NamedTuple):
    """The shift between two sets of a layer's statistics; tensors ``(C,)`` in float64.

    Attributes:
        mean: (Mt - Ms) / sqrt(Σs + ε): in standard deviations of the source.
        log_var_ratio: ln((Σt + ε) / (Σs + ε)).
        mean_divergence: The part of Jeffreys' divergence that the means make, in nats.
        var_divergence: The part that the variances make.
    """

    mean: Tensor
    log_var_ratio: Tensor
    mean_divergence: Tensor
    var_divergence: Tensor

    @property
    def divergence(self) -> Tensor:
        """Jeffreys' divergence, ``(C,)``."""
        return self.mean_divergence + self.var_divergence

    @property
    def average(self) -> AverageShift:
        """Means of absolute values over the channels."""
        return AverageShift(float(self.mean.abs().mean()), float(self.log_var_ratio.abs().mean()))


class AverageShift(NamedTuple):
    """A layer's shift averaged over its channels.

    Attributes:
        mean_shift: |Mt - Ms| / sqrt(Σs + ε).
        log_var_ratio: |ln((Σt + ε) / (Σs + ε))|: 0.69 where variances differ by a factor of two.
    """

    mean_shift: float
    log_var_ratio: float


@torch.no_grad()
def statistics_shift(mean_s: Tensor, var_s: Tensor, mean_t: Tensor, var_t: Tensor, eps: float = 0.0) -> Shift:
    """Compare source statistics with target statistics, each ``(C,)``; ``eps`` is the layer's ε."""
    mean_s, var_s, mean_t, var_t = (t.detach().to(mean_s.device, torch.float64) for t in (mean_s, var_s, mean_t, var_t))
    var_s, var_t = var_s + eps, var_t + eps
    return Shift(
        mean=(mean_t - mean_s) / var_s.sqrt(),
        log_var_ratio=torch.log(var_t / var_s),
        mean_divergence=0.5 * (mean_t - mean_s) ** 2 * (1 / var_s + 1 / var_t),
        var_divergence=0.5 * (var_t - var_s) ** 2 / (var_s * var_t))
