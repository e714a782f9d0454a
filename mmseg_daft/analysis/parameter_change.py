"""Relative change of a parameter or statistic in fine-tuning, ‖W̃ - W‖₂ / ‖W‖₂.

Ha, Jeong, Lee (AAAI 2024), Eq. 6 and Figure 2. For DAFT, W is the value *after* the conversion: the
conversion re-parametrises and moves no feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return ‖after - before‖₂ / ‖before‖₂ in float64; tensors of one shape.

    Raises:
        ValueError: The shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f'The tensor had shape {tuple(before.shape)} and has {tuple(after.shape)} now: these are not '
                         'two states of one model.')
    before, after = before.double(), after.double()
    return float((after - before).norm() / before.norm().clamp(min=torch.finfo(torch.float64).tiny))


def relative_changes(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], layers: Iterable[str], tensor: str
) -> dict[str, float]:
    """Return each layer's relative change of one of its tensors.

    Args:
        before: A state dict from before fine-tuning.
        after: The state dict from after it.
        layers: Full names of layers.
        tensor: ``'weight'``, ``'bias'``, ``'running_mean'`` or ``'running_var'``.
    """
    return {layer: relative_change(before[f'{layer}.{tensor}'], after[f'{layer}.{tensor}']) for layer in layers}
