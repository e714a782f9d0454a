"""Describe settings of objects as text that is the same in every process, to tell whether two are set alike."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DEPTH = 12
_SHOWN = (bool, int, float, complex, str, bytes, range, slice, PurePath, torch.dtype, torch.device)
"""Types whose ``repr`` tells all."""


def describe(value: Any, depth: int = 0) -> str:
    """Return the class and the attributes of an object, recursively; arrays and tensors by a hash of their bytes.

    A function is known by its name, its code, its defaults and what it encloses; what else it calls, and the methods
    of a class, by their names alone. No address is in it, so that it can be compared with another process's.

    Raises:
        ValueError: The object is nested too deep, as one that refers to itself is; or it does not show what it holds,
            as an open file or an object of compiled code does not.
    """
    if depth > _DEPTH:
        raise ValueError(f'{type(value).__name__} is nested too deep to be described')
    if value is None or value is ... or isinstance(value, _SHOWN):
        return repr(value)
    if isinstance(value, re.Pattern):  # whose repr ends after 200 characters
        return f'pattern {value.pattern!r} {value.flags}'
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        return f'{array.dtype}{array.shape}{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}'
    if isinstance(value, Mapping):
        return f'{{{", ".join(f"{key!r}: {describe(item, depth + 1)}" for key, item in value.items())}}}'
    if isinstance(value, (list, tuple, deque)):
        return f'[{", ".join(describe(item, depth + 1) for item in value)}]'
    if isinstance(value, (set, frozenset)):
        return f'{{{", ".join(sorted(describe(item, depth + 1) for item in value))}}}'
    if isinstance(value, partial):
        return f'{describe(value.func, depth + 1)}{describe([value.args, value.keywords], depth + 1)}'
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, (type, BuiltinFunctionType, np.ufunc)):
        return f'{getattr(value, "__module__", None)}.{getattr(value, "__qualname__", value.__name__)}'
    if isinstance(value, FunctionType):
        return f'{value.__module__}.{value.__qualname__}{describe(list(_of_function(value)), depth + 1)}'
    if isinstance(value, MethodType):
        return f'{describe(value.__self__, depth + 1)}.{value.__name__}'
    kind = f'{type(value).__module__}.{type(value).__qualname__}'
    if isinstance(value, Enum):
        return f'{kind}.{value.name}'
    return f'{kind}({describe(_attributes(value), depth + 1)})'


def _of_function(function: FunctionType) -> Iterator[Any]:
    yield from _of_code(function.__code__)
    yield function.__defaults__
    yield function.__kwdefaults__
    yield [cell.cell_contents for cell in function.__closure__ or ()]


def _of_code(code: CodeType) -> Iterator[Any]:
    """Yield what a function does, without the file and the lines where it stands."""
    yield code.co_code
    yield code.co_names
    for constant in code.co_consts:
        yield list(_of_code(constant)) if isinstance(constant, CodeType) else constant


def _attributes(value: Any) -> dict[str, Any]:
    names = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    found.update(getattr(value, '__dict__', {}))
    if not found and not hasattr(value, '__dict__') and type(value) is not object:
        raise ValueError(f'{type(value).__name__} does not show what it holds, so it cannot be described')
    return found


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get('__slots__', ())
    return [name for name in ([slots] if isinstance(slots, str) else slots) if name not in ('__dict__', '__weakref__')]
