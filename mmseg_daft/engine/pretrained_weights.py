"""Which files a model starts from by ``init_cfg``, and how well each of them matches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mmseg_daft.core.weight_match import WeightMatch, match_weights
from mmseg_daft.engine.checkpoint_file import read_checkpoint


class PretrainedStart(NamedTuple):
    """A module that takes its weights from a file.

    Attributes:
        name: The module's name in the model; empty for the model itself.
        module: The module.
        checkpoint: The file's path or address, as ``init_cfg`` has it.
        prefix: What the module's names begin with in the file, or ``None``.
        own_loading: Whether the module has code of its own that reads the file, as mmseg's transformers do: it
            may translate names, and what it warns of is all that is known.
    """

    name: str
    module: nn.Module
    checkpoint: str
    prefix: str | None
    own_loading: bool


def pretrained_starts(model: nn.Module) -> Iterator[PretrainedStart]:
    """Yield the modules of a model that have ``init_cfg=dict(type='Pretrained', …)``."""
    for name, module in model.named_modules():
        cfgs = module.init_cfg if isinstance(module, BaseModule) else None
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs or ():
            if cfg.get('type') in ('Pretrained', PretrainedInit) and cfg.get('checkpoint'):
                yield PretrainedStart(name, module, cfg['checkpoint'], cfg.get('prefix'),
                                      type(module).init_weights is not BaseModule.init_weights)


def match_start(start: PretrainedStart) -> WeightMatch:
    """Read a start's file, as MMEngine does, and compare it with the module."""
    return match_file(start.module.state_dict(), start.checkpoint, start.prefix)


def match_file(model: Mapping[str, Tensor], checkpoint: str, prefix: str | None = None) -> WeightMatch:
    """Read a checkpoint, as MMEngine does, and compare it with a model.

    Args:
        model: The model's state dict.
        checkpoint: A path, an address or anything else that MMEngine loads.
        prefix: What the model's names begin with in the file, or ``None``.

    Raises:
        ValueError: The file is no checkpoint.
    """
    file, _ = read_checkpoint(checkpoint)
    if prefix is None:
        part = {name.removeprefix('module.'): tensor for name, tensor in file.items()}
    else:
        start = prefix.rstrip('.') + '.'
        part = {name.removeprefix(start): tensor for name, tensor in file.items() if name.startswith(start)}
    return match_weights(model, _tensors(part), _tensors(file))


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
