"""Which files a model starts from by ``init_cfg``, and how much of the model each of them fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mmseg_daft.engine.checkpoints import read_checkpoint

_COUNTER = 'num_batches_tracked'  # older files lack it, and nothing depends on it


@dataclass(frozen=True)
class WeightMatch:
    """The tensors of a model, sorted by what a file has for them.

    Attributes:
        matched: Names of tensors that the file has, in the same shape.
        missing: Names that the file lacks.
        misshapen: Names whose shape differs, with the file's shape and the model's.
        prefix: A prefix of the file's names that would match more, or ``None``.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    prefix: str | None

    @property
    def share(self) -> float:
        """The share of the model's tensors that match, from 0 to 1."""
        return len(self.matched) / max(1, len(self.matched) + len(self.missing) + len(self.misshapen))

    @property
    def lost_statistics(self) -> tuple[str, ...]:
        """The running means and variances of batch norm among those that do not match."""
        lost = (*self.missing, *self.misshapen)
        return tuple(name for name in lost if name.endswith(('running_mean', 'running_var')))

    def problem(self, min_share: float) -> str | None:
        """Say what is wrong with a match that is too poor to train from; ``None`` where it is good.

        Args:
            min_share: The share of tensors that have to match. Statistics of batch norm all have to.
        """
        if self.share >= min_share and not self.lost_statistics:
            return None
        total = len(self.matched) + len(self.missing) + len(self.misshapen)
        lines = [f'{len(self.matched)} of {total} tensors match ({self.share:.0%}; at least {min_share:.0%} and every '
                 'running mean and variance have to).']
        if self.missing:
            lines.append(f'Not in the file ({len(self.missing)}): {_some(self.missing)}.')
        if self.misshapen:
            shapes = [f'{name} {file} in the file, {model} in the model'
                      for name, (file, model) in self.misshapen.items()]
            lines.append(f'Of another shape ({len(shapes)}): {_some(shapes)}.')
        if self.prefix is not None:
            lines.append(f'The file has more of them under {self.prefix!r}: set prefix={self.prefix!r} in init_cfg.'
                         if self.prefix else 'The file has more of them without prefix: leave it out of init_cfg.')
        return ' '.join(lines)


def match_weights(
    model: Mapping[str, Tensor], file: Mapping[str, Tensor], whole_file: Mapping[str, Tensor] | None = None,
) -> WeightMatch:
    """Compare the names and shapes of a model's tensors with a file's.

    Args:
        model: The model's state dict.
        file: The file's, without the prefix that was asked for.
        whole_file: The file's, with all its prefixes, to suggest a better one.
    """
    names = [name for name in model if name.rsplit('.', 1)[-1] != _COUNTER]
    matched = tuple(name for name in names if name in file and file[name].shape == model[name].shape)
    return WeightMatch(
        matched=matched,
        missing=tuple(name for name in names if name not in file),
        misshapen={name: (tuple(file[name].shape), tuple(model[name].shape))
                   for name in names if name in file and file[name].shape != model[name].shape},
        prefix=_better_prefix(names, whole_file if whole_file is not None else file, len(matched)))


def _better_prefix(names: list[str], file: Mapping[str, Tensor], matched: int) -> str | None:
    prefixes: Counter[str] = Counter()
    wanted = set(names)
    for key in file:
        parts = key.split('.')
        prefixes.update('.'.join(parts[:i]) for i in range(len(parts)) if '.'.join(parts[i:]) in wanted)
    best, count = prefixes.most_common(1)[0] if prefixes else ('', 0)
    return best if count > matched else None


def _some(words: list[str] | tuple[str, ...], most: int = 8) -> str:
    return ', '.join(words[:most]) + (f', and {len(words) - most} more' if len(words) > most else '')


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
