"""Read the tensors of a TorchScript archive, such as CLIP's, without running anything that is in it.

``torch.jit.load`` compiles the program in an archive and runs parts of it; ``torch.load`` refuses archives or, with
``weights_only=False``, unpickles whatever they name. Here only the list of attributes is read, and of pickle's language
only what describes tensors and containers. Memory and time grow with the file's size, whatever it claims to hold.

``init_cfg`` names an archive as ``torchscript://`` and a path or an address.
"""

import hashlib
import math
import os
import pickletools
import re
import uuid
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmseg_daft.files import is_intact

SCHEME = 'torchscript://'
# Far more than any network has. What is read is bounded by the first; the walk through it by the others, as an object
# may stand in many places.
MOST_BYTES, MOST_PARTS, DEEPEST, LONGEST_NAME = 4 * 2**20, 100_000, 100, 500


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
            tensors = _named_tensors(_Reader(archive, root, Path(path).stat().st_size).network())
    except zipfile.BadZipFile as error:
        raise ValueError(f'{path} is no TorchScript archive, or only a part of one ({_cut(error)}). Download it again; '
                         'a checkpoint of torch.save needs no torchscript://.') from None
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a TorchScript archive: {_cut(error)}. Download it again. If it is '
                         'whole and you trust it, torch.save the state_dict() of torch.jit.load, and name that file '
                         'without torchscript://.') from error
    if not tensors:
        raise ValueError(f'{path} holds no tensors.')
    return tensors


def _cut(error: Exception) -> str:
    """Return an error's message, which may quote the archive, as so much as a message can hold."""
    text = str(error)
    if not text or isinstance(error, (LookupError, TypeError)):
        text = f'its list of attributes is damaged ({type(error).__name__})'
    return text if len(text) <= 300 else f'{text[:300]} …'


class _ScriptObject:
    """An object of a class that the archive's program defines."""

    attributes: dict[str | int, Any] = {}


@dataclass
class _Reader:
    """Reads records of an archive, of which no more than ``left`` bytes in all, and makes what its attributes say."""

    archive: zipfile.ZipFile
    root: str
    left: int
    storages: dict[str, bytearray] = field(default_factory=dict)

    def network(self) -> Any:
        """Return what the list of attributes describes: script objects, tensors, plain containers and values.

        Raises:
            ValueError: It says something else, or is longer than any network's.
        """
        content = self.record('data.pkl')
        if len(content) > MOST_BYTES:
            raise ValueError(f'its list of attributes has {len(content)} bytes, more than any network\'s')
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}
        for opcode, value, _ in pickletools.genops(content):
            name = opcode.name
            if name in _VALUES:
                stack.append(value)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name == 'MARK':
                marks.append(len(stack))
            elif name in ('TUPLE', 'APPENDS', 'SETITEMS'):
                items = stack[marks[-1]:]
                del stack[marks.pop():]
                if name == 'TUPLE':
                    stack.append(tuple(items))
                elif name == 'APPENDS':
                    _as(list, stack[-1]).extend(items)
                else:
                    _as(dict, stack[-1]).update(zip(map(_key, items[::2]), items[1::2], strict=True))
            elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
                stack[-int(name[-1]):] = [tuple(stack[-int(name[-1]):])]
            elif name in ('BINPUT', 'LONG_BINPUT'):
                memo[value] = stack[-1]
            elif name in ('BINGET', 'LONG_BINGET'):
                stack.append(memo[value])
            elif name == 'GLOBAL':
                stack.append(_known(value))
            elif name == 'BINPERSID':
                stack.append(self.storage(stack.pop()))
            elif name in ('REDUCE', 'NEWOBJ'):
                arguments = _as(tuple, stack.pop())
                stack.append(stack.pop()(*arguments))  # nothing but what _known returns can be called
            elif name == 'BUILD':
                state = stack.pop()
                _as(_ScriptObject, stack[-1]).attributes = state if isinstance(state, dict) else {}
            elif name == 'STOP':
                return stack.pop()
            elif name != 'PROTO':
                raise ValueError(f'its list of attributes has a {name}, which torch.jit.save never writes')
        raise ValueError('its list of attributes has no end')

    def storage(self, reference: Any) -> Tensor:
        """Return the numbers of a record, as a flat tensor; all of one record share its memory."""
        kind, dtype, key, _, numel = _as(tuple, reference)
        if kind != 'storage' or not (type(key) is str and type(numel) is int and isinstance(dtype, torch.dtype)):
            raise ValueError('it refers to something that is no storage')
        if key not in self.storages:
            self.storages[key] = bytearray(self.record(f'data/{key}'))
        data = self.storages[key]
        if not 0 <= numel * dtype.itemsize <= len(data):
            raise ValueError(f'a record has {len(data)} bytes for more numbers of {dtype} than that')
        return torch.frombuffer(data, dtype=dtype, count=numel) if numel else torch.empty(0, dtype=dtype)

    def record(self, name: str) -> bytes:
        """Read a record. It may claim any size, and records may lie over one another: all of them are in the file."""
        info = self.archive.NameToInfo.get(f'{self.root}/{name}')
        if info is None:
            raise ValueError(f'it has no record {name}')
        if info.compress_type != zipfile.ZIP_STORED:  # in an archive, only the program is compressed
            raise ValueError(f'record {name} is compressed, which torch.jit.save never does')
        self.left -= max(info.compress_size, info.file_size)
        if self.left < 0:
            raise ValueError('its records are larger than the file')
        return self.archive.read(info)


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f'its list of attributes has a {type(value).__name__} in place of a {kind.__name__}')
    return value


def _key(value: Any) -> str | int:
    """Let texts and small numbers be keys: to hash others, such as nested tuples, can take for ever."""
    short = type(value) is str and len(value) <= LONGEST_NAME
    if not (short or (type(value) is int and abs(value) < 2**31)):
        raise ValueError(f'its list of attributes has a key that is no short text or small number, but a '
                         f'{type(value).__name__}')
    return value


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    numbers = offset, *_as(tuple, size)[:65], *_as(tuple, stride)[:65]
    if len(numbers) > 129 or any(type(number) is not int for number in numbers):
        raise ValueError('a tensor has a shape that is none')
    if math.prod(size) > _as(Tensor, storage).numel():
        raise ValueError('a tensor has more numbers than its record')
    # as_strided checks the bounds.
    return storage.as_strided(size, stride, offset) if math.prod(size) else storage.new_empty(size)


def _same(value: Any, *_: Any) -> Any:
    return value


def _no_hooks() -> None:
    """Stand for a tensor's hooks: an OrderedDict, which would copy what it is given."""


_VALUES = ('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE')
_CONSTANTS = dict(NONE=None, NEWTRUE=True, NEWFALSE=False)
_EMPTY = dict(EMPTY_TUPLE=tuple, EMPTY_LIST=list, EMPTY_DICT=dict)
_STORAGES = dict(
    FloatStorage=torch.float32, DoubleStorage=torch.float64, HalfStorage=torch.float16, BFloat16Storage=torch.bfloat16,
    LongStorage=torch.int64, IntStorage=torch.int32, ShortStorage=torch.int16, CharStorage=torch.int8,
    ByteStorage=torch.uint8, BoolStorage=torch.bool)
_KNOWN = {
    'collections OrderedDict': _no_hooks,
    'torch._utils _rebuild_tensor_v2': _tensor,
    **{f'torch {name}': dtype for name, dtype in _STORAGES.items()},
    'torch device': _same,
    **{f'torch.jit._pickle build_{kind}list': _same for kind in ('int', 'double', 'bool', 'tensor')},
    'torch.jit._pickle restore_type_tag': _same}


def _known(name: str) -> Any:
    if name.startswith(('__torch__.', '__torch__ ')):
        return _ScriptObject
    if name not in _KNOWN:
        raise ValueError(f'it asks for {".".join(name[:100].split())}, which is refused: a network needs tensors and '
                         'plain data alone')
    return _KNOWN[name]


def _named_tensors(network: Any) -> dict[str, Tensor]:
    """Walk the attributes of a network; an object under two names is visited under both.

    Raises:
        ValueError: There are more parts than any network has: objects contain one another.
    """
    tensors: dict[str, Tensor] = {}
    waiting: list[tuple[str, int, Any]] = [('', 0, network)]
    parts = 0
    while waiting:
        name, depth, value = waiting.pop()
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, _ScriptObject):
            parts += len(value.attributes)
            if parts > MOST_PARTS or depth == DEEPEST or len(name) > LONGEST_NAME:
                raise ValueError('its parts contain one another, or are more than any network has')
            waiting += reversed([(f'{name}.{part}' if name else str(part), depth + 1, v)
                                 for part, v in value.attributes.items()])
    return tensors


def local_archive(place: str) -> tuple[Path, str | None]:
    """Return an archive's path on this machine, once it is downloaded, and its SHA-256 if its address holds that.

    In CLIP's addresses, a folder is named after the file's SHA-256.
    """
    if not is_address(place):
        return Path(place), None
    file = Path(urlparse(place).path)
    found = re.search(r'(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])', str(file))
    digest = found and found.group()
    key = digest[:8] if digest else hashlib.sha256(place.encode()).hexdigest()[:16]  # many files have one name
    return Path(torch.hub.get_dir()) / 'checkpoints' / f'{file.stem}-{key}{file.suffix}', digest


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
    unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}')
    try:
        torch.hub.download_url_to_file(address, str(unfinished), hash_prefix=digest)
        if not is_intact(unfinished):  # PyTorch takes a connection that ends early for the end of the file
            raise ValueError(f'{address} is no TorchScript archive, or was cut off. Start again, or correct it.')
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
