"""``torchscript://`` in ``init_cfg``: start from a TorchScript archive, such as those of CLIP."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmseg_daft.models.torchscript_archive import read_tensors

SCHEME = 'torchscript://'


def local_archive(place: str) -> tuple[Path, str | None]:
    """Return where an archive is on this machine, or will be once downloaded, and its SHA-256 where its address has it.

    Args:
        place: A path, or an ``http(s)`` address; CLIP's hold the file's SHA-256 as a folder.
    """
    if not is_address(place):
        return Path(place), None
    path = urlparse(place).path
    digest = re.search(r'(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])', path)
    file = Path(path)
    name = f'{file.stem}-{digest.group()[:8]}{file.suffix}' if digest else file.name
    return Path(torch.hub.get_dir()) / 'checkpoints' / name, digest.group() if digest else None


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_torchscript(filename: str, map_location: str | None = None) -> dict[str, Tensor]:
    """Load the tensors of a TorchScript archive; the program inside it is not run.

    An address is downloaded once, to where PyTorch keeps downloads (``$TORCH_HOME``), by the first process.

    Args:
        filename: ``torchscript://`` and a path or an address.
        map_location: As of ``torch.load``, but a device alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no TorchScript archive, or is not the one whose SHA-256 the address has.
    """
    place = filename.removeprefix(SCHEME)
    path, digest = local_archive(place)
    if is_address(place):
        try:
            if is_main_process():
                _download(place, path, digest)
        finally:
            barrier()  # on every process, whatever it found: one that is late may find the file there
        _download(place, path, digest)  # on another machine
    if digest is not None and _sha256(path) != digest:
        raise ValueError(f'{path} is not the file that {place} stands for: its SHA-256 is another. Delete it, and it '
                         'will be downloaded again.')
    return {name: tensor.to(map_location) for name, tensor in read_tensors(path).items()}


def is_address(place: str) -> bool:
    """Return whether an archive is on the web, rather than at a path."""
    return place.startswith(('http://', 'https://'))


def _download(address: str, path: Path, digest: str | None) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(address, str(path), hash_prefix=digest)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
