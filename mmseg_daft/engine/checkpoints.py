"""MMEngine's checkpoints: read one, write them atomically, and tell a run's own from the one it starts from."""

import io
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import BaseLoop, CheckpointLoader, Runner, load_checkpoint
from torch import Tensor

from mmseg_daft.engine.configs import model_of
from mmseg_daft.files import last_intact, write_atomically


def read_checkpoint(path: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a checkpoint's weights by name, and all of its content, on the CPU; ``path`` is anything MMEngine loads.

    The weights are under ``state_dict``, as MMEngine's and many others' are, or the whole content, as torchvision's.

    Raises:
        ValueError: What is there is not a checkpoint.
        OSError: It is not there, or cannot be read.
    """
    try:
        content = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger=None)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{path} is not there. Put it there, train the model that writes it, or name another '
                                'file: in init_cfg, load_from or on the command line.') from error
    except Exception as error:  # unpickling what is no checkpoint can raise anything
        named = getattr(error, 'filename', None)  # else PyTorch sought beyond the end of a torn file
        if named or (isinstance(error, (OSError, ValueError)) and '://' in path):  # a scheme's own reader
            raise
        if refused := re.search(r'\bGLOBAL ([\w.]+)', str(error)):
            raise ValueError(
                f'{path} holds {refused[1]}, which is no plain data: reading it could run code, so it is refused. If '
                f'you trust the file, read it with torch.load({path!r}, weights_only=False) and write its tensors '
                "alone: torch.save(dict(state_dict=...), 'tensors.pth'). Then name that file.") from error
        raise ValueError(_refusal(path, f'PyTorch cannot read it ({type(error).__name__})')) from error
    if not isinstance(content, Mapping):
        raise ValueError(_refusal(path, f'it holds a {type(content).__name__}'))
    state = content.get('state_dict', content)
    places = dict(_tensors_in(content))
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        if places:
            raise ValueError(_elsewhere(path, places))
        raise ValueError(_refusal(path, 'it holds no tensors by name'))
    if state is content and max(places.values()) > places[()]:  # a counter beside 'model', for instance
        raise ValueError(_elsewhere(path, places))
    return {name: value for name, value in state.items() if isinstance(name, str)}, content


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; its tensors as they are.

    Raises:
        UnwritableError: It cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_atomically(path, buffer.getvalue())


def _refusal(path: str, why: str) -> str:
    return (f'{path} is no checkpoint: {why}. Name a file that torch.save wrote: a dictionary of tensors by '
            'name, or one that has them under \'state_dict\', such as the iter_*.pth of a run. If it was copied or '
            'downloaded, get it again.')


def _tensors_in(content: Mapping[Any, Any], place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Yield where a dictionary and those in it hold tensors, by the keys that lead there, and how many."""
    if number := sum(isinstance(value, Tensor) for value in content.values()):
        yield place, number
    for key, value in content.items():
        if isinstance(value, Mapping) and len(place) < 3:
            yield from _tensors_in(value, (*place, key))


def _elsewhere(path: str, places: Mapping[tuple[Any, ...], int]) -> str:
    keys = sorted(((number, ''.join(f'[{key!r}]' for key in place)) for place, number in places.items() if place),
                  key=lambda pair: -pair[0])
    found = ', '.join(f'{place} ({number})' for number, place in keys[:4])  # an optimizer has a place for each tensor
    return (f"{path} holds its tensors not under 'state_dict', but under {found}. Write those that you mean to a file "
            f"of their own: torch.save(dict(state_dict=torch.load({path!r}){keys[0][1]}), "
            "'tensors.pth'). Then name that file.")


BACKEND = 'atomic'
"""The name for ``backend_args=dict(backend=...)``."""


@register_backend(BACKEND)
class AtomicBackend(LocalBackend):
    """MMEngine's local files, written as a whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to a file, atomically."""
        write_atomically(Path(filepath), obj)


def is_training(runner: Runner) -> bool:
    """Return whether a runner trains, and was not asked for a validation or a test alone, from ``before_run`` on."""
    return isinstance(runner._train_loop, BaseLoop)  # else it is a config, or None


def settle_start(runner: Runner) -> None:
    """Let ``--resume`` go on from this run's own checkpoint, and ``load_from`` be what a new run starts from.

    For a hook's ``before_run``; settled once, it stays. A validation or a test takes the weights that it was given: the
    config that MMEngine dumps of a resumed run has ``resume=True``, which would ask for training data, too.

    Raises:
        FileNotFoundError, ValueError: As ``settled_start``.
    """
    if not is_training(runner):
        runner._resume = runner._resume and not runner._load_from
    elif runner._resume and runner._load_from:
        name = runner.experiment_name.rsplit('_', 2)[0]  # less the time of start, 20261124_161001
        runner._load_from, runner._resume, remark = settled_start(runner._load_from, Path(runner.work_dir), name)
        if remark:
            runner.logger.info(remark)


def settled_start(load_from: str, work_dir: Path, name: str) -> tuple[str | None, bool, str]:
    """Return what a run that is started with ``--resume`` loads, whether it resumes from that, and why, for the log.

    MMEngine resumes from ``load_from`` itself, whatever the work directory holds: the first launch of a job that is
    always started with ``--resume`` would take the pre-trained model's iteration for its own and train nothing, and a
    later one would lose what it had trained. A checkpoint in the work directory that is named explicitly is resumed, as
    MMEngine does.

    Args:
        load_from: The config's.
        work_dir: The run's.
        name: Of the run, as its checkpoints have it: ``experiment_name``, or the config's file name.

    Raises:
        ValueError: ``load_from`` may as well be this run's own past, or as ``read_checkpoint``.
        FileNotFoundError: As ``read_checkpoint``.
    """
    if '://' not in load_from and Path(load_from).resolve().parent == work_dir.resolve():
        return load_from, True, ''
    if last_intact(work_dir):
        return None, True, (f'Resume: from the last checkpoint in {work_dir}. load_from={load_from!r} is what the run '
                            'started from.')
    _, content = read_checkpoint(load_from)
    before = content.get('meta', {}).get('experiment_name', '').rsplit('_', 2)[0]
    if 'message_hub' in content and 'optimizer' in content and before == name:  # else MMEngine could not resume
        raise ValueError(f'--resume, but {work_dir} holds no checkpoint, and load_from={load_from!r} is of a run with '
                         f'the same name, {name!r}: is it the past of this run, or the start of a new one? To go on '
                         'from it, copy it into the work directory and name the copy; to start from its weights, leave '
                         'out --resume.')
    return load_from, False, (f'Resume: {work_dir} holds no checkpoint yet, so the run starts, from the weights of '
                              f'load_from={load_from!r}. To go on from that file instead, copy it into the work '
                              'directory and name the copy.')


def pretrained_model(cfg: Config, load_from: str | None) -> BaseModel:
    """Build a config's model, on the CPU, with the weights that training begins with: a resumed run lost them.

    ``load_from`` is the checkpoint that was loaded on top of ``init_cfg``. It draws random numbers, for the layers that
    no file fills: call it where they are preserved.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # or MMEngine logs some lines for every parameter
    try:
        model = revert_sync_batchnorm(MODELS.build(model_of(cfg)))
        model.init_weights()
    finally:
        logger.setLevel(level)
    if load_from:
        load_checkpoint(model, load_from, map_location='cpu', logger='silent')
    return model
