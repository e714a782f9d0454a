"""The conversion taken apart, for ablations: which statistics it replaces, how far, and what it compensates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_daft.core.arguments import FLAG, check_arguments, number
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.statistics import LayerStatistics

VARIANT = dict(mean=FLAG, var=FLAG, compensate=FLAG, blend=number(
    lambda share: 0 < share <= 1, "the target's share, larger than 0 and at most 1, which is the paper's conversion"))
"""What the arguments of a variant may be."""


@dataclass(frozen=True)
class ConversionVariant:
    """What a conversion replaces; the defaults are the paper's.

    Attributes:
        mean: Replace the running mean, with β to match.
        var: Replace the running variance, with γ to match.
        blend: α, the target's share: the new statistics are (1 - α) · source + α · target.
        compensate: Change γ and β such that the eval-mode function stays (Eq. 4 and 5). Without, only the statistics
            are replaced, as in adaptive batch norm (AdaBN: Li et al., Pattern Recognition 2018), and the function
            changes; they have to be collected with ``collect_statistics(by_batch=True)``, or all but the first layer's
            are stale.

    Raises:
        ValueError: Nothing would be replaced, ``blend`` is not in (0, 1], or another argument is no bool.
    """

    mean: bool = True
    var: bool = True
    blend: float = 1.0
    compensate: bool = True

    def __post_init__(self) -> None:
        check_arguments('ConversionVariant', vars(self), VARIANT)
        if not (self.mean or self.var):
            raise ValueError('mean=False with var=False replaces nothing: leave BNConversionHook out instead.')

    @torch.no_grad()
    def statistics(self, layer: BatchNorm, target: LayerStatistics) -> LayerStatistics:
        """Return what a layer's running statistics become, in float64, leaving the layer as it is."""
        mean, var = layer.running_mean.double(), layer.running_var.double()
        return LayerStatistics(
            mean=self._blended(mean, target.mean) if self.mean else mean,
            var=self._blended(var, target.var) if self.var else var,
            num_batches=target.num_batches)

    def _blended(self, source: Tensor, target: Tensor) -> Tensor:
        return target if self.blend == 1 else torch.lerp(source, target, self.blend)

    def __str__(self) -> str:
        """What differs from the paper's conversion, in a few words; empty if nothing does."""
        words = []
        if not (self.mean and self.var):
            words.append('means only' if self.mean else 'variances only')
        if self.blend != 1:
            words.append(f'{self.blend:g} of the target')
        if not self.compensate:
            words.append('γ and β not compensated')
        return ', '.join(words)
