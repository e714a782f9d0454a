"""The conversion taken apart, for ablations: which statistics it replaces, how far, and what it compensates.

Batch-norm conversion: lines 4 and 5 of Algorithm 1 (Ha, Jeong, Lee, AAAI 2024).

For each layer, with source parameters γs, βs, Ms, Σs and target statistics Mt, Σt,

    γt = γs · sqrt(Σt + ε) / sqrt(Σs + ε),    βt = βs + γs · (Mt - Ms) / sqrt(Σs + ε)

replace γs, βs, and Mt, Σt replace Ms, Σs. It is a re-parametrisation: in test mode the network
computes the function that it computed before, on any input. In training mode its batch statistics
now sit close to the running ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mmseg_daft.core.batch_norm import BatchNorm, why_not_convertible
from mmseg_daft.core.statistics import LayerStatistics


@dataclass(frozen=True)
class ConversionVariant:
    """What a conversion replaces; as it stands by default, it is the paper's.

    Attributes:
        mean: Replace the running mean, with β to match.
        var: Replace the running variance, with γ to match.
        blend: α, the target's share: the new statistics are (1 - α) · source + α · target.
        compensate: Change γ and β such that the test-mode function stays (Eq. 4 and 5). Without, only
            the statistics are replaced, as adaptive batch norm does (AdaBN: Li et al., Pattern
            Recognition 2018), and the function changes; they have to be collected with
            ``collect_statistics(by_batch=True)``, or all but the first layer's are stale.

    Raises:
        ValueError: Nothing would be replaced, or ``blend`` is not in (0, 1].
    """

    mean: bool = True
    var: bool = True
    blend: float = 1.0
    compensate: bool = True

    def __post_init__(self) -> None:
        if not (self.mean or self.var):
            raise ValueError('mean=False with var=False replaces nothing: leave BNConversionHook out instead.')
        if not 0 < self.blend <= 1:
            raise ValueError(f'blend={self.blend!r}: the share of the target statistics lies in (0, 1]; 1 is the '
                             "paper's conversion. Leave BNConversionHook out for 0.")

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

    @property
    def differences(self) -> str:
        """What differs from the paper's conversion, in a few words; empty where nothing does."""
        words = []
        if not (self.mean and self.var):
            words.append('means only' if self.mean else 'variances only')
        if self.blend != 1:
            words.append(f'{self.blend:g} of the target')
        if not self.compensate:
            words.append('γ and β not compensated')
        return ', '.join(words)


PAPER = ConversionVariant()
"""The paper's conversion: both statistics, wholly the target's, compensated."""


class LayerTensors(NamedTuple):
    """γ, β and the running statistics of a batch-norm layer, each of shape ``(C,)``."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor


@torch.no_grad()
def converted(layer: BatchNorm, target: LayerStatistics, variant: ConversionVariant = PAPER) -> LayerTensors:
    """Return what a layer's tensors become, in float64, leaving the layer as it is (Eq. 4 and 5).

    Args:
        layer: A pre-trained layer.
        target: The target statistics of its input.
        variant: What is replaced, for ablations.

    Raises:
        ValueError: The layer cannot be converted, or the result does not fit its number format.
    """
    reason = why_not_convertible(layer)
    if reason:
        raise ValueError(f'the layer cannot be converted: {reason}')
    gamma, beta, mean, var = (t.double() for t in tensors_of(layer))
    new = variant.statistics(layer, target)
    if variant.compensate:
        source_std = torch.sqrt(var + layer.eps)
        beta = beta + gamma * (new.mean - mean) / source_std
        gamma = gamma * torch.sqrt(new.var + layer.eps) / source_std
    result = LayerTensors(weight=gamma, bias=beta, running_mean=new.mean, running_var=new.var)
    for name, tensor, kept in zip(LayerTensors._fields, result, tensors_of(layer), strict=True):
        if not torch.isfinite(tensor.to(kept.dtype)).all():
            raise ValueError(
                f'the converted {name} is not finite in {kept.dtype}: look for NaN or infinite values '
                'in the pre-trained weights and the data')
    return result


def tensors_of(layer: BatchNorm) -> LayerTensors:
    """Return a layer's own four tensors (not copies)."""
    return LayerTensors(layer.weight, layer.bias, layer.running_mean, layer.running_var)


@torch.no_grad()
def state_of(layers: Mapping[str, BatchNorm]) -> dict[str, Tensor]:
    """Return copies of the four tensors of each layer, on the CPU, under the names that a state dict has for them."""
    return {f'{name}.{field}': tensor.detach().cpu().clone()
            for name, layer in layers.items() for field, tensor in tensors_of(layer)._asdict().items()}


@torch.no_grad()
def write(layers: Mapping[str, BatchNorm], tensors: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """Write tensors into layers, in place, and return copies of what was there.

    In place, because the optimizer and a distributed wrapper hold these very tensors; frozen γ and β
    are written too. ``write(layers, returned)`` undoes it.
    """
    before = {name: LayerTensors(*(t.clone() for t in tensors_of(layers[name]))) for name in tensors}
    for name, new in tensors.items():
        for tensor, value in zip(tensors_of(layers[name]), new, strict=True):
            tensor.copy_(value)
    return before


def convert(
    layers: Mapping[str, BatchNorm], statistics: Mapping[str, LayerStatistics], variant: ConversionVariant = PAPER,
) -> dict[str, LayerTensors]:
    """Convert batch-norm layers to target statistics, all or none, and return what was there before.

    Args:
        layers: The layers, by name.
        statistics: The target statistics of each of them, by the same name.
        variant: What is replaced, for ablations.

    Raises:
        ValueError: A layer cannot be converted, or two layers share a tensor: γ that serves two
            layers cannot take up the change of both their statistics.
    """
    owner: dict[int, str] = {}
    new = {}
    for name, layer in layers.items():
        try:
            new[name] = converted(layer, statistics[name], variant)
        except ValueError as error:
            raise ValueError(f'Batch-norm layer {name!r}: {error}.') from None
        for tensor in tensors_of(layer):
            if owner.setdefault(id(tensor), name) != name:
                raise ValueError(
                    f'Batch-norm layers {owner[id(tensor)]!r} and {name!r} share a tensor, which cannot take '
                    'up the change of both their statistics. Leave one of them out of `modules`.')
    return write(layers, new)
