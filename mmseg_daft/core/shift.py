"""How far the target domain lies from the source, as a batch-norm layer sees it.

The gap between a source and a target domain, channel by channel, as batch-norm layers see it.

A batch-norm layer describes its input, per channel, by a mean and a variance: a Gaussian. With source Ms, Σs and
target Mt, Σt, ε added to both variances as the layer does, the divergence is Jeffreys' (the symmetrised
Kullback-Leibler one, KL(s‖t) + KL(t‖s)), which falls apart into a part of the means and a part of the variances:

    J = ½ (Mt - Ms)² (1/Σs + 1/Σt)  +  ½ (Σt/Σs + Σs/Σt - 2)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class LayerGap:
    """The gap at one layer; tensors of shape ``(C,)`` in float64.

    Attributes:
        shift: (Mt - Ms) / sqrt(Σs + ε): in standard deviations of the source.
        log_var_ratio: ln((Σt + ε) / (Σs + ε)).
        mean_divergence: The part of Jeffreys' divergence that the means make, in nats.
        var_divergence: The part that the variances make.
    """

    shift: Tensor
    log_var_ratio: Tensor
    mean_divergence: Tensor
    var_divergence: Tensor

    @property
    def divergence(self) -> Tensor:
        """Jeffreys' divergence, of shape ``(C,)``."""
        return self.mean_divergence + self.var_divergence

    def numbers(self) -> dict[str, float]:
        """Return the layer's row of the report.

        Shift and ratio are means of absolute values over the channels, as in the hook's summary. Divergences are
        medians: a channel that was all but dead in the source divides by a variance of next to nothing.
        """
        return dict(
            channels=len(self.shift),
            mean_shift=float(self.shift.abs().mean()),
            log_var_ratio=float(self.log_var_ratio.abs().mean()),
            signed_log_var_ratio=float(self.log_var_ratio.mean()),
            divergence=float(self.divergence.median()),
            mean_divergence=float(self.mean_divergence.median()),
            var_divergence=float(self.var_divergence.median()),
            largest_divergence=float(self.divergence.max()))


def jeffreys_parts(
    mean_s: Tensor, var_s: Tensor, mean_t: Tensor, var_t: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the two parts of Jeffreys' divergence between Gaussians: of the means, of the variances."""
    means = 0.5 * (mean_t - mean_s) ** 2 * (1 / var_s + 1 / var_t)
    return means, 0.5 * (var_t - var_s) ** 2 / (var_s * var_t)


@torch.no_grad()
def layer_gap(layer: BatchNorm, target: LayerStatistics) -> LayerGap:
    """Compare a layer's running statistics, before any conversion, with the target's."""
    mean_s, var_s = layer.running_mean.double(), layer.running_var.double() + layer.eps
    var_t = target.var + layer.eps
    return LayerGap((target.mean - mean_s) / var_s.sqrt(), torch.log(var_t / var_s),
                    *jeffreys_parts(mean_s, var_s, target.mean, var_t))


def domain_gap(
    layers: Mapping[str, BatchNorm], statistics: Mapping[str, LayerStatistics],
) -> dict[str, LayerGap]:
    """Return the gap at each layer, by name."""
    return {name: layer_gap(layer, statistics[name]) for name, layer in layers.items()}
