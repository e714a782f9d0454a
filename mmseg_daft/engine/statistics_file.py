"""Target statistics in a file, safetensors with metadata: written as a whole, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from mmseg_daft.core.statistics import LayerStatistics
from mmseg_daft.engine.atomic_checkpoint import write_atomically


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
