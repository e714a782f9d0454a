"""Compute in full float32 for a while, on GPUs that would round to TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Switch TF32 off for convolutions and matrix products; restore both settings afterwards."""
    switches, name, off = _switches()
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, off)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


def float32_precision() -> str:
    """Return what float32 convolutions and matrix products round to on a GPU, as torch's settings have it."""
    switches, name, _ = _switches()
    return f'{name} {", ".join(str(getattr(switch, name)) for switch in switches)}'


def _switches() -> tuple[tuple[Any, Any], str, Any]:
    """torch >= 2.9 has ``fp32_precision`` for this and refuses to mix it with the older ``allow_tf32``."""
    if hasattr(torch.backends.cudnn, 'conv'):
        return (torch.backends.cudnn.conv, torch.backends.cuda.matmul), 'fp32_precision', 'ieee'
    return (torch.backends.cudnn, torch.backends.cuda.matmul), 'allow_tf32', False
