"""Read the tensors of a TorchScript archive, such as CLIP's, without running anything that is in it.

``torch.jit.load`` compiles the program in an archive and runs parts of it; ``torch.load`` refuses archives or, with
``weights_only=False``, unpickles whatever they name. Here only the list of attributes is read, by an unpickler that
knows nothing but tensors and containers and takes no more memory than a few times the file's size.

``init_cfg`` names an archive as ``torchscript://`` and a path or an address.
"""

import hashlib
import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.runner import CheckpointLoader
from torch import Tensor

SCHEME = 'torchscript://'
MOST_PARTS, DEEPEST = 100_000, 100  # attributes and levels; no network has more

def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return parameters, buffers and other tensor attributes of the network in an archive, by dotted name.

    Tensors are on the CPU, whatever device they were saved from, in the archive's type (CLIP's are float16).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no TorchScript archive, it is damaged, or it asks for more than tensors and plain data.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'There is no TorchScript archive at {path}.')
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = names[0].split('/')[0] if names else ''
            if f'{root}/data.pkl' not in names or f'{root}/constants.pkl' not in names:
                raise ValueError('it has no list of attributes. A checkpoint of torch.save is loaded by its path or '
                                 'address as it is: leave torchscript:// out')
            network = _Reader(io.BytesIO(_record(archive, f'{root}/data.pkl')), archive, f'{root}/data/').load()
        tensors = _named_tensors(network)
    except zipfile.BadZipFile as error:
        raise ValueError(f'{path} is no TorchScript archive, or only a part of one ({error}). Download it again; a '
                         'checkpoint of torch.save needs no torchscript://.') from None
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a TorchScript archive: {error}.') from error
    if not tensors:
        raise ValueError(f'{path} holds no tensors.')
    return tensors


class _ScriptObject:
    """An object of a class that the archive's program defines."""

    attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Reader(pickle._Unpickler):
    """Unpickles script objects, tensors and plain containers; refuses every other name.

    It extends the unpickler in Python: the one in C allocates room for as many objects as a file claims to have.
    """

    def __init__(self, content: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(content)
        self._archive, self._folder, self._storages = archive, folder, {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split('.')[0] == '__torch__':
            return _ScriptObject
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, which is refused: a network needs tensors and '
                                         'plain data alone.')
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, numel = pid
        if kind != 'storage' or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f'it refers to {pid!r}, which is no storage.')
        if (key, dtype) not in self._storages:
            data = bytearray(_record(self._archive, f'{self._folder}{key}'))
            if len(data) < numel * dtype.itemsize:
                raise pickle.UnpicklingError(f'record {key} has {len(data)} bytes for {numel} numbers of {dtype}.')
            self._storages[key, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key, dtype]


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a record that is not compressed, and so no larger than the file."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # in an archive, only the program is compressed
        raise ValueError(f'record {name} is compressed, which torch.jit.save never does')
    return archive.read(name)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    # as_strided checks the bounds.
    return storage.as_strided(size, stride, offset) if math.prod(size) else storage.new_empty(size)


def _same(value: Any, *_: Any) -> Any:
    return value


_STORAGES = dict(
    FloatStorage=torch.float32, DoubleStorage=torch.float64, HalfStorage=torch.float16, BFloat16Storage=torch.bfloat16,
    LongStorage=torch.int64, IntStorage=torch.int32, ShortStorage=torch.int16, CharStorage=torch.int8,
    ByteStorage=torch.uint8, BoolStorage=torch.bool)
_KNOWN = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    **{('torch', name): dtype for name, dtype in _STORAGES.items()},
    ('torch', 'device'): _same,
    **{('torch.jit._pickle', f'build_{kind}list'): _same for kind in ('int', 'double', 'bool', 'tensor')},
    ('torch.jit._pickle', 'restore_type_tag'): _same}


def _named_tensors(network: Any) -> dict[str, Tensor]:
    """Walk the attributes of a network; an object under two names is visited under both.

    Raises:
        ValueError: There are more parts than any network has: objects contain one another.
    """
    tensors: dict[str, Tensor] = {}
    waiting: list[tuple[str, int, Any]] = [('', 0, network)]
    for _ in range(MOST_PARTS):
        if not waiting:
            return tensors
        name, depth, value = waiting.pop()
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, _ScriptObject):
            if depth == DEEPEST:
                break
            parts = value.attributes.items()
            waiting += reversed([(f'{name}.{part}' if name else str(part), depth + 1, v) for part, v in parts])
    raise ValueError('its parts contain one another, or are more than any network has')


def local_archive(place: str) -> tuple[Path, str | None]:
    """Return an archive's path on this machine, once it is downloaded, and its SHA-256 if its address holds that.

    In CLIP's addresses, a folder is named after the file's SHA-256.
    """
    if not is_address(place):
        return Path(place), None
    file = Path(urlparse(place).path)
    digest = re.search(r'(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])', str(file))
    name = f'{file.stem}-{digest.group()[:8]}{file.suffix}' if digest else file.name
    return Path(torch.hub.get_dir()) / 'checkpoints' / name, digest.group() if digest else None


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_torchscript(filename: str, map_location: str | None = None) -> dict[str, Tensor]:
    """Load the tensors of a TorchScript archive without running the program in it.

    The first process downloads an address, once, to the folder in which PyTorch keeps downloads (``$TORCH_HOME``).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no TorchScript archive, or has another SHA-256 than its address.
    """
    place = filename.removeprefix(SCHEME)
    path, digest = local_archive(place)
    if is_address(place):
        try:
            if is_main_process():
                _download(place, path, digest)
        finally:
            barrier()  # also after an error, and where the file is already there
        _download(place, path, digest)  # where this machine is not the first process's
    if digest is not None and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ValueError(f'{path} is not the file that {place} stands for: its SHA-256 differs. Delete it, and it will '
                         'be downloaded again.')
    return {name: tensor.to(map_location) for name, tensor in read_tensors(path).items()}


def is_address(place: str) -> bool:
    """Return whether an archive is on the web, rather than at a path."""
    return place.startswith(('http://', 'https://'))


def _download(address: str, path: Path, digest: str | None) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(address, str(path), hash_prefix=digest)
