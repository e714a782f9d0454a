"""The confusion matrices of a model on a cell's images, in a file that is named after all that went into it.

A file is there as a whole or not at all, so an evaluation that was killed goes on where it was. It is compressed by
gzip: a line of JSON that says what it was made from, and for every ``BLOCK`` images a NumPy array of four columns
(image, ground truth, prediction, pixels), of the pairs of classes that occur. It is written and read block by block, so
that memory does not grow with the images.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

from mmseg_daft.files import remove_unfinished, written_atomically

Key = tuple[str, str, int]
"""What tells a cell apart: its set, corruption (``''`` for none) and severity (0 for none)."""

BLOCK = 128  # images
_FORMAT = 1


def weights_digest(model: nn.Module) -> str:
    """Return a digest of a model's weights and statistics: of their names, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cell_path(folder: Path, made_from: Mapping[str, Any]) -> Path:
    """Return the file for what is made from this: ``images``, how many there are, and all that a number depends on."""
    return folder / f'{hashlib.sha256(_line(made_from)).hexdigest()[:32]}.gz'


def _line(made_from: Mapping[str, Any]) -> bytes:
    return f'{json.dumps(dict(made_from, format=_FORMAT), default=_name)}\n'.encode()


def _name(value: Any) -> str:
    """Return what tells a class or function of a config apart, in every process."""
    return f'{value.__module__}.{value.__qualname__}' if hasattr(value, '__qualname__') else repr(value)


@contextmanager
def written_cell(path: Path, made_from: Mapping[str, Any]) -> Iterator[Callable[[NDArray[np.uint32]], None]]:
    """Yield what writes a file's next block; the file is there once the ``with`` block has ended without an error.

    Raises:
        OSError: It cannot be written, as on a full disk; with the file's name.
    """
    remove_unfinished(path)
    with written_atomically(path) as file, gzip.GzipFile('', 'wb', 6, file, mtime=0) as archive:
        archive.write(_line(made_from))
        yield lambda rows: npy.write_array(archive, np.ascontiguousarray(rows, np.uint32))


def _read(path: Path) -> Iterator[Any]:
    """Yield what a file was made from, and then its blocks.

    Raises:
        ValueError: It is damaged.
    """
    try:
        with gzip.open(path) as archive:
            yield json.loads(archive.readline())
            while archive.peek(1):
                yield npy.read_array(archive).astype(np.int64)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ValueError(f'{path} is damaged ({error}). Remove it, and give the command again.') from error


def read_areas(path: Path, classes: int) -> NDArray[np.int64]:
    """Return the areas of each image of a file, ``(images, 3, classes)``, as ``confusion`` takes them.

    Raises:
        ValueError: It is damaged.
    """
    made_from, *blocks = _read(path)
    areas = np.zeros((made_from['images'], 3, classes), np.int64)
    for image, truth, told, pixels in (block.T for block in blocks):
        same = truth == told
        np.add.at(areas[:, 0], (image[same], truth[same]), pixels[same])
        np.add.at(areas[:, 1], (image, truth), pixels)
        np.add.at(areas[:, 2], (image, told), pixels)
    return areas


def read_confusion(path: Path, classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix over all images of a file, ``(classes, classes)``: rows are the ground truth.

    Raises:
        ValueError: It is damaged.
    """
    _, *blocks = _read(path)
    matrix = np.zeros((classes, classes), np.int64)
    for _, truth, told, pixels in (block.T for block in blocks):
        np.add.at(matrix, (truth, told), pixels)
    return matrix
