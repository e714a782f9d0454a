"""Read a checkpoint, or say in a sentence that a file is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor


def read_checkpoint(path: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a checkpoint's weights by name, and all of its content, on the CPU.

    The weights are under ``state_dict``, as MMEngine's and many others' are, or the whole content, as torchvision's.

    Args:
        path: A path, an address or anything else that MMEngine loads.

    Raises:
        ValueError: What is there is no checkpoint.
        OSError: It is not there, or cannot be read.
    """
    try:
        content = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger=None)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{path} is not there. Put it there, train the model that writes it, or name another '
                                'file: in init_cfg, load_from or on the command line.') from error
    except Exception as error:  # unpickling what is no checkpoint can raise anything
        if isinstance(error, OSError) or (isinstance(error, ValueError) and '://' in path):  # a scheme's own reader
            raise
        raise ValueError(_refusal(path, f'PyTorch cannot read it ({type(error).__name__})')) from error
    if not isinstance(content, Mapping):
        raise ValueError(_refusal(path, f'it holds a {type(content).__name__}'))
    state = content.get('state_dict', content)
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(_refusal(path, 'it holds no tensors by name'))
    return {name: value for name, value in state.items() if isinstance(name, str)}, content


def _refusal(path: str, why: str) -> str:
    return (f'{path} is no checkpoint: {why}. It has to be a file that torch.save wrote: a dictionary of tensors by '
            'name, or one that has them under \'state_dict\', such as the iter_*.pth of a run. If it was copied or '
            'downloaded, get it again.')
