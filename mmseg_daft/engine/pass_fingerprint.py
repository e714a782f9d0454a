"""What a pass's statistics depend on, in a few named parts: two passes with equal ones find the same, to the bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import cv2
import mmcv
import mmengine
import mmseg
import numpy as np
import PIL
import torch
import torchvision
from mmengine.dist import get_dist_info
from torch import nn
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.tf32 import float32_precision
from mmseg_daft.engine.conversion_pass import PassSettings
from mmseg_daft.engine.model_forward import ModelForward
from mmseg_daft.engine.plain_description import describe

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
