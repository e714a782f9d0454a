"""Target statistics in a file, safetensors with metadata: written as a whole, checked when it is read.

Describe settings of objects as text that is the same in every process, to tell whether two are set alike.

What a pass's statistics depend on, in a few named parts: two passes with equal ones find the same, to the bit.

Compute target statistics once per sweep: a pass whose fingerprint is known is read from a file instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields, replace
from enum import Enum
from functools import partial
from logging import Logger
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import cv2
import mmcv
import mmengine
import mmseg
import numpy as np
import PIL
import torch
import torchvision
from mmengine.dist import broadcast_object_list, get_dist_info, is_main_process
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm, float32_precision
from mmseg_daft.core.statistics import LayerStatistics
from mmseg_daft.engine.convert_model import PassResult, PassSettings, first_batch, run_pass
from mmseg_daft.engine.training_data import ModelForward
from mmseg_daft.files import write_atomically


class StoredPass(NamedTuple):
    """What a file keeps of a pass (see ``PassResult``)."""

    statistics: dict[str, LayerStatistics]
    num_batches: int
    all_batches: int
    num_images: int


def write_statistics(path: Path, stored: StoredPass, fingerprint: Mapping[str, str]) -> None:
    """Write a file, or replace it as a whole: other jobs may read and write it meanwhile."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for layer, statistics in stored.statistics.items():
        numbers[layer] = {}
        for field in fields(statistics):
            value = getattr(statistics, field.name)
            if isinstance(value, Tensor):
                tensors[f'{layer}.{field.name}'] = value.detach().cpu().contiguous().clone()
            else:
                numbers[layer][field.name] = value
    metadata = dict(
        fingerprint=json.dumps(dict(fingerprint), sort_keys=True), layers=json.dumps(numbers),
        num_batches=str(stored.num_batches), all_batches=str(stored.all_batches),
        num_images=str(stored.num_images), checksum=_checksum(tensors))
    write_atomically(path, save(tensors, metadata))


def read_statistics(path: Path) -> StoredPass:
    """Read a file; the tensors are on the CPU.

    Raises:
        ValueError: The file is damaged.
        OSError: It cannot be read.
    """
    try:
        content = path.read_bytes()  # once: another job may replace the file at any time
        tensors, metadata = load(content), _metadata(content)
        if metadata['checksum'] != _checksum(tensors):
            raise ValueError('its checksum does not fit')
        numbers = json.loads(metadata['layers'])
        statistics = {
            layer: LayerStatistics(**own, **{
                field.name: tensors[f'{layer}.{field.name}'] for field in fields(LayerStatistics)
                if f'{layer}.{field.name}' in tensors})
            for layer, own in numbers.items()}
        return StoredPass(statistics, *(int(metadata[name]) for name in StoredPass._fields[1:]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is damaged ({error or type(error).__name__})') from None


def read_fingerprint(path: Path) -> dict[str, str]:
    """Read what a file's statistics depend on; empty where the file is damaged or unreadable."""
    try:
        with safe_open(path, 'pt') as file:
            return dict(json.loads((file.metadata() or {})['fingerprint']))
    except (SafetensorError, ValueError, KeyError, OSError):
        return {}


def _metadata(content: bytes) -> dict[str, str]:
    """Read the header of a safetensors file: its length in 8 bytes, then JSON."""
    length = int.from_bytes(content[:8], 'little')
    return json.loads(content[8:8 + length])['__metadata__']


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(f'{name}{tensors[name].dtype}{tuple(tensors[name].shape)}'.encode())
        state.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


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


FORMAT = 2
"""Of a statistics file, and of the way in which a pass draws its samples. Raise it whenever either changes."""


def pass_fingerprint(
    forward: ModelForward,
    layers: dict[str, BatchNorm],
    dataloader: DataLoader,
    settings: PassSettings,
    precision: Callable[[], AbstractContextManager[Any]],
) -> dict[str, str]:
    """Return the parts, each as a short text or hash; the arguments are those of ``run_pass``.

    Images and labels are known by name, size and time of change, in nanoseconds: to read them would cost what the
    file saves. Names count from the folder that is common to all, so that data may be mounted elsewhere. Ranks count
    also where they share batches of plain batch norm, as the order of a sum shows in the last bit.

    Raises:
        ValueError: The data are not files of this machine, or not known one by one.
    """
    ran = _what_runs(forward)
    device = next(iter(layers.values())).running_mean.device
    with precision():
        autocast = _autocast(device.type)
    return {
        'format': str(FORMAT),
        'libraries': json.dumps({library.__name__: library.__version__ for library in (
            mmseg, mmcv, mmengine, torch, torchvision, np, cv2, PIL)}),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type,
        'precision': autocast + (f', {float32_precision()}' if device.type == 'cuda' else ''),
        'weights': _hash_state(ran),
        'architecture': _hash('\n'.join(map(_settings_of, ran.named_modules()))),
        'preprocessing': _hash(describe({k: v for k, v in vars(forward.model.data_preprocessor).items()
                                         if k not in ('_modules', '_parameters', '_device', 'training')})),
        'layers': _hash(json.dumps({name: type(layer).__name__ for name, layer in layers.items()})),
        'seed': str(settings.seed),
        'pass': json.dumps(dict(asdict(settings), seed=None, ranks=get_dist_info()[1],
                                batch_size=dataloader.batch_size)),
        'collation': _hash(describe(dataloader.collate_fn)),
        'pipeline': _hash('\n'.join(_pipelines(dataloader.dataset))),
        'data': _hash('\n'.join(_samples(dataloader.dataset))),
    }


def digest(fingerprint: dict[str, str]) -> str:
    """Return one hash of all parts."""
    return _hash(json.dumps(fingerprint, sort_keys=True))


def _what_runs(forward: ModelForward) -> nn.Module:
    """The extractor alone, where the pass runs no more: decoders start anew in every run."""
    if not forward.features_only:
        return forward.model
    return nn.ModuleDict({name: module for name, module in forward.model.named_children()
                          if name in ('backbone', 'neck')})


def _autocast(kind: str) -> str:
    if hasattr(torch, 'get_autocast_dtype'):  # torch >= 2.4
        on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    elif kind == 'cuda':
        on, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    else:
        on, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    return f'autocast {dtype}' if on else 'as the weights'


def _settings_of(module: tuple[str, nn.Module]) -> str:
    """Describe a module by its numbers and words; not where its weights came from."""
    name, layer = module
    plain = (bool, int, float, str)
    own = {key: value for key, value in vars(layer).items() if not key.startswith('_') and key != 'training' and all(
        isinstance(item, plain) for item in (value if isinstance(value, (list, tuple)) else [value]))}
    return f'{name} {type(layer).__qualname__} {layer.extra_repr()} {own!r}'


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hash_state(module: nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        state.update(f'{name}{tensor.dtype}{tuple(tensor.shape)}'.encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:16]


def _parts(dataset: Any) -> list[Any]:
    """The data sets inside a wrapper; none where it is one itself."""
    return list(getattr(dataset, 'datasets', None) or filter(None, [getattr(dataset, 'dataset', None)]))


def _pipelines(dataset: Any) -> Iterator[str]:
    """Describe each data set's settings, transforms among them, but not its list of samples."""
    parts = _parts(dataset)
    if not parts and not callable(getattr(dataset, 'get_data_info', None)):
        raise ValueError(f'{type(dataset).__name__} does not tell its samples one by one (no get_data_info)')
    own = {name: value for name, value in vars(dataset).items() if name not in (
        'dataset', 'datasets', 'data_list', 'data_address', 'data_bytes', 'data_root', 'data_prefix', 'ann_file',
        '_fully_initialized')}
    yield f'{type(dataset).__qualname__} {describe(own)}'
    for part in parts:
        yield from _pipelines(part)


def _samples(dataset: Any) -> Iterator[str]:
    """Describe each sample: its facts, and of the files among them name, size and time of change."""
    parts = _parts(dataset)
    for part in parts:
        yield from _samples(part)
    if parts:
        return
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    paths = {path for info in infos for name, value in info.items() if 'path' in name and value
             for path in (value if isinstance(value, (list, tuple)) else [value])}
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ''
    files = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise ValueError(f'{path} is no file whose size and time can be asked for ({error.strerror})') from None
        files[path] = f'{os.path.relpath(path, root)} {status.st_size} {status.st_mtime_ns}'
    for info in infos:
        yield describe({name: [files[path] for path in (value if isinstance(value, (list, tuple)) else [value])]
                        if 'path' in name and value else value for name, value in info.items()})


def cached_pass(
    cache_dir: Path,
    logger: Logger,
    forward: ModelForward,
    layers: dict[str, BatchNorm],
    dataloader: DataLoader,
    settings: PassSettings,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> PassResult:
    """Return what ``run_pass`` would, from a file in ``cache_dir`` if there is one for this very pass.

    There is a file for each fingerprint. Rank 0 alone reads and writes; what it read goes to the other ranks. A file
    that is damaged, or a folder that cannot be written, costs a pass and a line in the log, no more.

    Args:
        cache_dir: Where the files are; made if need be.
        logger: Says whether the pass was known, and if not, what differs from the nearest that is.
        forward: This and the rest as of ``run_pass``.
    """
    path, fingerprint, found = None, None, [None]
    if is_main_process():
        try:
            fingerprint = pass_fingerprint(forward, layers, dataloader, settings, precision)
            path = cache_dir / f'bn-statistics-{digest(fingerprint)}.safetensors'
            found = [_look_up(path, fingerprint, layers, logger)]
        except Exception as error:  # whatever it is, the other ranks wait, and a pass can be made
            logger.warning(f'BN statistics: not kept in {cache_dir}, as {error}.')
    broadcast_object_list(found)
    if found[0] is None:
        result = run_pass(forward, layers, dataloader, settings, precision)
        if path is not None and fingerprint is not None:
            _keep(path, result, fingerprint, logger)
        return result
    statistics = {name: _on_device(found[0].statistics[name], layer) for name, layer in layers.items()}
    sample = first_batch(forward, dataloader, settings)
    return PassResult(statistics, sample, found[0].num_batches, found[0].all_batches, found[0].num_images)


def _look_up(
    path: Path, fingerprint: dict[str, str], layers: dict[str, BatchNorm], logger: Logger,
) -> StoredPass | None:
    if path.is_file():
        try:
            stored = read_statistics(path)
            if list(stored.statistics) != list(layers):
                raise ValueError(f'{path} is damaged (it is about other layers)')
        except (ValueError, OSError) as error:
            logger.warning(f'BN statistics: {error}; they are computed anew.')
            return None
        logger.info(f'BN statistics: read from {path}.')
        return stored
    others = [other for other in map(read_fingerprint, path.parent.glob('bn-statistics-*.safetensors')) if other]
    if others:
        differences = [sorted(part for part in {*fingerprint, *other} if fingerprint.get(part) != other.get(part))
                       for other in others]
        nearest = min(differences, key=len)
        reason = f'none of the {len(others)} in {path.parent} is of this pass; the nearest differs in: ' \
                 f'{", ".join(nearest)}'
        if nearest == ['seed']:
            reason += ' (it shuffles and augments; with randomness=dict(seed=...) in the config all runs have the same)'
    else:
        reason = f'there are none in {path.parent} yet'
    logger.info(f'BN statistics: {reason}.')
    return None


def _keep(path: Path, result: PassResult, fingerprint: dict[str, str], logger: Logger) -> None:
    try:
        write_statistics(path, StoredPass(
            result.statistics, result.num_batches, result.all_batches, result.num_images), fingerprint)
    except OSError as error:
        logger.warning(f'BN statistics: not written to {path} ({error}); the run goes on.')
    else:
        logger.info(f'BN statistics: written to {path}.')


def _on_device(statistics: LayerStatistics, layer: BatchNorm) -> LayerStatistics:
    device = layer.running_mean.device
    return replace(statistics, **{name: value.to(device) for name, value in vars(statistics).items()
                                  if isinstance(value, Tensor)})
