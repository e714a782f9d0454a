"""Compute in full float32 for a while, on GPUs that would round to TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Switch TF32 off for convolutions and matrix products; restore both settings afterwards.

    torch >= 2.9 has ``fp32_precision`` for this and refuses to mix it with the older ``allow_tf32``.
    """
    if hasattr(torch.backends.cudnn, 'conv'):
        switches, name, off = (torch.backends.cudnn.conv, torch.backends.cuda.matmul), 'fp32_precision', 'ieee'
    else:
        switches, name, off = (torch.backends.cudnn, torch.backends.cuda.matmul), 'allow_tf32', False
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, off)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
