"""Batch-norm conversion, Eq. 4 and 5 of Domain-Aware Fine-Tuning (Ha, Jeong, Lee, AAAI 2024).

For each layer, with source parameters γs, βs, Ms, Σs and target statistics Mt, Σt,

    γt = γs · sqrt(Σt + ε) / sqrt(Σs + ε),    βt = βs + γs · (Mt - Ms) / sqrt(Σs + ε)

replace γs and βs, and Mt, Σt replace Ms, Σs. In eval mode the network computes what it computed before, on any input.
In train mode its batch statistics now sit close to the running ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mmseg_daft.core.batch_norm import BatchNorm, why_not_convertible
from mmseg_daft.core.statistics import LayerStatistics

if TYPE_CHECKING:
    from mmseg_daft.core.variant import ConversionVariant


class LayerTensors(NamedTuple):
    """γ, β and the running statistics of a batch-norm layer, each ``(C,)``."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor


def convert(
    layers: Mapping[str, BatchNorm],
    statistics: Mapping[str, LayerStatistics],
    variant: ConversionVariant | None = None,
) -> dict[str, LayerTensors]:
    """Convert layers to target statistics, all or none, and return what they held before.

    Args:
        layers: The layers, by name.
        statistics: The target statistics of each of them, by the same name.
        variant: For ablations; ``None`` for the paper's conversion.

    Raises:
        ValueError: A layer cannot be converted or has no statistics, or two share a tensor: one γ cannot take up the
            change of two.
    """
    if missing := sorted(layers.keys() - statistics.keys()):
        raise ValueError(f'There are no statistics of the batch-norm layers {missing}.')
    owner: dict[int, str] = {}
    new = {}
    for name, layer in layers.items():
        for tensor in tensors_of(layer):
            if owner.setdefault(id(tensor), name) != name:
                raise ValueError(f'Batch-norm layers {owner[id(tensor)]!r} and {name!r} share a tensor, which cannot '
                                 'take up the change of both their statistics. Leave one of them out of `modules`.')
        try:
            new[name] = converted(layer, statistics[name], variant)
        except ValueError as error:
            raise ValueError(f'Batch-norm layer {name!r}: {error}.') from None
    return write(layers, new)


@torch.no_grad()
def converted(layer: BatchNorm, target: LayerStatistics, variant: ConversionVariant | None = None) -> LayerTensors:
    """Return what a layer's tensors become by Eq. 4 and 5, in float64; the layer stays as it is.

    Raises:
        ValueError: The layer cannot be converted, or the result does not fit its number format.
    """
    if reason := why_not_convertible(layer):
        raise ValueError(f'the layer cannot be converted: {reason}')
    gamma, beta, mean, var = (tensor.double() for tensor in tensors_of(layer))
    target = LayerStatistics(target.mean.to(mean), target.var.to(mean), target.num_batches)
    if target.mean.shape != mean.shape:
        raise ValueError(f'it has {len(mean)} channels, its statistics {len(target.mean)}')
    new = target if variant is None else variant.statistics(layer, target)
    if variant is None or variant.compensate:
        source_std = torch.sqrt(var + layer.eps)
        beta = beta + gamma * (new.mean - mean) / source_std
        gamma = gamma * torch.sqrt(new.var + layer.eps) / source_std
    result = LayerTensors(gamma, beta, new.mean, new.var)
    for name, tensor, kept in zip(LayerTensors._fields, result, tensors_of(layer), strict=True):
        if not torch.isfinite(tensor.to(kept.dtype)).all():
            raise ValueError(f'the converted {name} is not finite in {kept.dtype}: look for NaN or infinite values in '
                             'the pre-trained weights and the data')
    return result


def tensors_of(layer: BatchNorm) -> LayerTensors:
    """Return a layer's own four tensors, not copies."""
    return LayerTensors(layer.weight, layer.bias, layer.running_mean, layer.running_var)


@torch.no_grad()
def write(layers: Mapping[str, BatchNorm], tensors: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """Write tensors into layers and return copies of what was there; ``write(layers, returned)`` undoes it.

    In place, because an optimizer and a distributed wrapper hold these very tensors; frozen γ and β are written, too.
    """
    before = {name: LayerTensors(*(tensor.clone() for tensor in tensors_of(layers[name]))) for name in tensors}
    for name, new in tensors.items():
        for tensor, value in zip(tensors_of(layers[name]), new, strict=True):
            tensor.copy_(value)
    return before
