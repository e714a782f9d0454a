"""Files that are there as a whole or not at all, and a note of the last checkpoint that can be trusted.

The standard library alone: jobs on a cluster start without torch.
"""

import json
import os
import re
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_SUFFIX = '.unfinished'


class UnwritableError(ValueError):
    """A file cannot be written; the message is for users, with the fix."""


def write_atomically(path: Path, content: Any) -> None:
    """Write a file such that another process, and one after a crash, sees the old content or the new, nothing else.

    Args:
        path: Where; the folder is made if need be.
        content: Bytes, a text, or anything else as JSON.
    """
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content, indent=1) + '\n'
    with written_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written bit by bit, which is there, as ``write_atomically`` says, once the block has ended.

    Raises:
        OSError: It cannot be written; with its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: two nodes' containers may share both it and the folder.
    unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}{_SUFFIX}')
    try:
        with open(unfinished, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:  # as of a full disk
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes have left of a file that they wrote."""
    for leftover in path.parent.glob(f'{path.name}.*{_SUFFIX}'):
        leftover.unlink(missing_ok=True)


def refuse_unwritable(path: Path) -> None:
    """Check, before the work that makes its content, that a file can be written; nothing is left behind.

    Raises:
        UnwritableError: It cannot, with the reason.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())  # those below it will be made
    trial = folder / f'{path.name}.{uuid.uuid4().hex}~'  # another rank may check the same place, or tidy it up
    try:
        if path.is_dir():
            raise IsADirectoryError('it is a folder')
        if not folder.is_dir():
            raise NotADirectoryError(f'{folder} is no folder')
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UnwritableError(f'{path} cannot be written: {error.strerror or error}. Name another place.') from error


def read_json(path: Path) -> Any:
    """Return a file's content, or ``None`` where there is no file; raise ``SystemExit`` where it is damaged."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SystemExit(f'{path} is empty or damaged ({error}), as a full disk or a crash leaves a file. Remove it, '
                         'and give the command again.') from error


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log."""
    return '\n'.join(log.read_text(encoding='utf-8', errors='replace').splitlines()[-lines:])


def mend_last_checkpoint(work_dir: Path, folder: Path | None = None) -> str | None:
    """Let ``last_checkpoint`` name an intact checkpoint, and remove what a killed process left half-written.

    MMEngine writes a checkpoint in place (also again, after a validation that was the best so far) and then notes its
    name in ``last_checkpoint``, in place as well. A process that is killed meanwhile leaves files that cannot be
    resumed from.

    Args:
        work_dir: Holds ``last_checkpoint``.
        folder: Holds the checkpoints, if not ``work_dir``.

    Returns:
        What was wrong, for the log; ``None`` where nothing was.
    """
    for leftover in (folder or work_dir).glob(f'*{_SUFFIX}'):
        leftover.unlink(missing_ok=True)
    note = work_dir / 'last_checkpoint'
    if not note.is_file():
        return None
    named, intact = note.read_text(encoding='utf-8').strip(), last_intact(work_dir, folder)
    if named and named == intact:
        return None
    problem = f'{note} names {named or "nothing"}, which is missing or half-written'
    if intact:
        write_atomically(note, intact)
        return f'{problem}; {Path(intact).name} is the last that is whole'
    note.unlink()
    return f'{problem}, as are all others: the training starts over'


def last_intact(work_dir: Path, folder: Path | None = None) -> str | None:
    """Return the checkpoint that a run can be resumed from, ``None`` where it has to start.

    It is the one that ``last_checkpoint`` names, or that of the same name here, where the folder was moved. Where
    neither is whole, it is the last that is. Arguments as in ``mend_last_checkpoint``.
    """
    note = work_dir / 'last_checkpoint'
    if not note.is_file():
        return None
    named = note.read_text(encoding='utf-8').strip()
    if named and ('://' in named or is_intact(Path(named))):
        return named
    here = folder or work_dir
    for place in (here, work_dir) if named else ():
        if is_intact(moved := place / Path(named).name):
            return str(moved)
    for place in (here, Path(named).parent if named else work_dir):
        if intact := [path for path in _by_iteration(place) if is_intact(path)]:
            return str(intact[-1])
    return None


def noted_checkpoint(work_dir: Path) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names: in the run's folder, or where ``CheckpointHook`` puts it.

    The folder may be a copy, of a run that has gone on since, and a relative path started where the training did: a
    file of that name in the folder comes before them.
    """
    note = work_dir / 'last_checkpoint'
    named = Path(note.read_text(encoding='utf-8').strip()) if note.is_file() else Path()
    here, elsewhere = work_dir / named.name, named.is_absolute() and not (named.parent / note.name).exists()
    return next((path for path in ([named, here] if elsewhere else [here, named]) if path.is_file()), None)


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint is there to its end: torch writes zip archives, whose directory comes last."""
    return path.is_dir() or (path.is_file() and zipfile.is_zipfile(path))


def _by_iteration(folder: Path) -> list[Path]:
    numbered = [(int(match[1]), path) for path in folder.glob('*.pth')
                if (match := re.fullmatch(r'(?:iter|epoch)_(\d+)\.pth', path.name))]
    return [path for _, path in sorted(numbered)]


def shipped(package: Path, name: str) -> Path | None:
    """Return what an OpenMMLab package ships: in a wheel under its ``.mim``, in a checkout beside it; or ``None``."""
    return next((place for place in (package / '.mim' / name, package.parent / name) if place.exists()), None)


def tool(name: str) -> str:
    """Return the path of ``tools/NAME``: run by its path, it is this package's code, whatever the directory holds."""
    return str(shipped(Path(__file__).resolve().parent, f'tools/{name}'))
