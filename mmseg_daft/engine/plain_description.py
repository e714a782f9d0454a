"""Describe settings of objects as text that is the same in every process, to tell whether two are set alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor

_DEPTH = 12


def describe(value: Any, depth: int = 0) -> str:
    """Return the class and the attributes of an object, recursively; arrays and tensors by a hash of their bytes.

    Names of functions and classes stand for their code. No address is in it, so that it can be compared with another
    process's.

    Raises:
        ValueError: The object is nested too deep, as one that refers to itself is.
    """
    if depth > _DEPTH:
        raise ValueError(f'{type(value).__name__} is nested too deep to be described')
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        return f'{array.dtype}{array.shape}{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}'
    if isinstance(value, Mapping):
        return f'{{{", ".join(f"{key!r}: {describe(item, depth + 1)}" for key, item in value.items())}}}'
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(describe(item, depth + 1) for item in value)}]'
    if isinstance(value, (set, frozenset)):
        return f'{{{", ".join(sorted(describe(item, depth + 1) for item in value))}}}'
    if isinstance(value, partial):
        return f'{describe(value.func, depth + 1)}{describe([value.args, value.keywords], depth + 1)}'
    if isinstance(value, (type, FunctionType)):
        return f'{value.__module__}.{value.__qualname__}'
    if isinstance(value, MethodType):
        return f'{describe(value.__self__, depth + 1)}.{value.__name__}'
    kind = f'{type(value).__module__}.{type(value).__qualname__}'
    return f'{kind}({describe(getattr(value, "__dict__", {}), depth + 1)})'
