"""Relative change of a parameter or statistic in fine-tuning, ‖W̃ - W‖₂ / ‖W‖₂, layer by layer.

Ha, Jeong, Lee (AAAI 2024), Eq. 6 and Figure 2. For DAFT, W is the value *after* the conversion: the
conversion re-parametrises and moves no feature.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import BatchNorm

KINDS = {
    'conv_weight': 'weight of conv layers',
    'bn_weight': 'weight of BN layers',
    'bn_bias': 'bias of BN layers',
    'bn_mean': 'mean of BN layers',
    'bn_variance': 'variance of BN layers'}
"""What is compared, in the words of the paper's Figure 2."""

_BN_TENSORS = {'weight': 'bn_weight', 'bias': 'bn_bias', 'running_mean': 'bn_mean', 'running_var': 'bn_variance'}
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LayerTensor(NamedTuple):
    """A tensor that Eq. 6 is about.

    Attributes:
        name: In the state dict.
        layer: The layer's name.
        kind: A key of ``KINDS``.
        stage: Of the network: ``'stem'``, ``'1'``, ``'2'``, …
    """

    name: str
    layer: str
    kind: str
    stage: str


def layer_tensors(model: nn.Module, modules: Sequence[str] = ('backbone',)) -> Iterator[LayerTensor]:
    """Yield the tensors of convolutions and batch norm inside some submodules, in the order of the network.

    The order is that in which the layers were registered, which for the networks of mmseg is the one they run in.
    """
    for layer, module in model.named_modules():
        if not any(f'{layer}.'.startswith(f'{scope}.') for scope in modules):
            continue
        stage = stage_of(layer)
        if isinstance(module, _CONVS):
            yield LayerTensor(f'{layer}.weight', layer, 'conv_weight', stage)
        elif isinstance(module, BatchNorm):
            for tensor, kind in _BN_TENSORS.items():
                if getattr(module, tensor) is not None:
                    yield LayerTensor(f'{layer}.{tensor}', layer, kind, stage)


def stage_of(layer: str) -> str:
    """Return the stage that a layer's name tells, counted from 1, or ``'stem'`` for what comes before the stages."""
    found = re.search(r'(?:^|\.)(layer|stage|stages\.)(\d+)(?:\.|$)', layer)
    if not found:
        return 'stem'
    return str(int(found[2]) + (found[1] == 'stages.'))  # ModuleLists count from 0


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return ‖after - before‖₂ / ‖before‖₂ in float64; tensors of one shape.

    Returns:
        0 where nothing changed, infinity where all was zero before and is no longer.

    Raises:
        ValueError: The shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f'The tensor had shape {tuple(before.shape)} and has {tuple(after.shape)} now: these are not '
                         'two states of one model.')
    before, after = before.detach().cpu().double(), after.detach().cpu().double()
    change, length = float((after - before).norm()), float(before.norm())
    return change / length if length else (math.inf if change else 0.0)


class StatisticsDrift(NamedTuple):
    """How far a batch-norm layer's running statistics moved, averaged over its channels.

    Attributes:
        mean: |M̃ - M| / sqrt(Σ + ε): in standard deviations.
        log_variance: |ln((Σ̃ + ε) / (Σ + ε))|: 0.69 for a factor of two.
    """

    mean: float
    log_variance: float


@torch.no_grad()
def statistics_drift(
    layer: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], eps: float,
) -> StatisticsDrift:
    """Return the drift of one layer's statistics between two state dicts; ``eps`` is the layer's ε."""
    mean, var, new_mean, new_var = (
        state[f'{layer}.{tensor}'].detach().cpu().double()
        for state in (before, after) for tensor in ('running_mean', 'running_var'))
    return StatisticsDrift(
        mean=float(((new_mean - mean).abs() / (var + eps).sqrt()).mean()),
        log_variance=float(torch.log((new_var + eps) / (var + eps)).abs().mean()))
