"""How much a conversion changed what a model computes: float noise, or it went wrong."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce, get_comm_device
from torch import Tensor

from mmseg_daft.core.test_mode import test_mode
from mmseg_daft.core.tf32 import without_tf32
from mmseg_daft.engine.model_forward import ModelForward


def test_outputs(forward: ModelForward, data: Any) -> list[Tensor]:
    """Return the test-mode outputs in the weights' own precision, without autocast and TF32.

    Args:
        forward: The model.
        data: A prepared mini-batch; ``None`` on a rank that has none, for no outputs.
    """
    if data is None:
        return []
    with test_mode(forward.model), torch.no_grad(), without_tf32():
        return [output.clone() for output in forward.outputs(data)]


test_outputs.__test__ = False  # pytest takes functions by their name


def largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest change of any output relative to its largest value, over all ranks."""
    largest = torch.zeros(1, dtype=torch.float64, device=get_comm_device())
    for old, new in zip(before, after, strict=True):
        scale = old.abs().max().clamp(min=torch.finfo(old.dtype).tiny)
        largest = torch.maximum(largest, ((new - old).abs().max() / scale).to(largest))
    all_reduce(largest, 'max')
    return float(largest)
