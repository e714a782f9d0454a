"""Checkpoints that are there as a whole or not at all, and a note of the last one that can be trusted.

MMEngine writes a checkpoint in place (also again, after a validation that was the best so far) and then notes its name
in ``last_checkpoint``, in place as well. A process that is killed meanwhile leaves files that cannot be resumed from.
"""

from __future__ import annotations

import os
import re
import uuid
import zipfile
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

BACKEND = 'atomic'
"""The name for ``backend_args=dict(backend=...)``."""
_SUFFIX = '.unfinished'


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file such that another process, and one after a crash, sees the old content or the new, nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: two nodes' containers may share both it and the folder.
    unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}{_SUFFIX}')
    try:
        with open(unfinished, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@register_backend(BACKEND)
class AtomicBackend(LocalBackend):
    """MMEngine's local files, written as a whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to a file, atomically."""
        write_atomically(Path(filepath), obj)


def mend_last_checkpoint(work_dir: Path, folder: Path) -> str | None:
    """Let ``last_checkpoint`` name an intact checkpoint, and remove what a killed process left half-written.

    Args:
        work_dir: Holds ``last_checkpoint``.
        folder: Holds the checkpoints.

    Returns:
        What was wrong, for the log; ``None`` where nothing was.
    """
    for leftover in folder.glob(f'*{_SUFFIX}'):
        leftover.unlink(missing_ok=True)
    note = work_dir / 'last_checkpoint'
    if not note.is_file():
        return None
    named = note.read_text(encoding='utf-8').strip()
    if named and ('://' in named or is_intact(Path(named))):
        return None
    problem = f'{note} names {named or "nothing"}, which is missing or half-written'
    intact = [path for path in _by_iteration(folder) if is_intact(path)]
    if intact:
        write_atomically(note, str(intact[-1]).encode())
        return f'{problem}; {intact[-1].name} is the last that is whole'
    note.unlink()
    return f'{problem}, as are all others: the training starts over'


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint is there to its end: torch writes zip archives, whose directory comes last."""
    return path.is_dir() or (path.is_file() and zipfile.is_zipfile(path))


def _by_iteration(folder: Path) -> list[Path]:
    numbered = [(int(match[1]), path) for path in folder.glob('*.pth')
                if (match := re.fullmatch(r'(?:iter|epoch)_(\d+)\.pth', path.name))]
    return [path for _, path in sorted(numbered)]
