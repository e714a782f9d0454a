"""Let ``torch.load(weights_only=True)``, the default since torch 2.6, read MMEngine's checkpoints.

They hold the message hub, whose ``HistoryBuffer`` objects are neither tensors nor plain data (MMEngine
issue 1655). Only what MMEngine writes is allowed; ``weights_only`` stays on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from packaging.version import Version

_STATISTICS = ('min', 'max', 'mean', 'current')


def _history_buffer_method(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which a HistoryBuffer refers to its four statistics methods."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise ValueError(f'a checkpoint asks for attribute {name!r} of {owner!r}, which MMEngine never writes')


def _multiarray() -> Any:
    """NumPy's private module of that name, where 1.x and 2.x each keep it."""
    return np._core.multiarray if Version(np.__version__) >= Version('2') else np.core.multiarray


def allow_mmengine_checkpoints() -> None:
    """Extend torch's allow-list by the types in MMEngine's checkpoints, where torch has need of it."""
    if Version(torch.__version__) < Version('2.6'):
        return
    multiarray = _multiarray()
    private = [(getattr(multiarray, name), f'{module}.multiarray.{name}')
               for name in ('_reconstruct', 'scalar') for module in ('numpy.core', 'numpy._core')]
    public = [HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(name)) for name in ('float32', 'float64', 'int64'))]
    torch.serialization.add_safe_globals([
        # With their names: onedl-mmengine takes types without from the list again after each load of its own.
        *((kind, f'{kind.__module__}.{kind.__qualname__}') for kind in public),
        *private,
        (_history_buffer_method, 'builtins.getattr')])
