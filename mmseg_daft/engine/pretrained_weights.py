"""Which files a model starts from by ``init_cfg``, and how much of the model each of them fills."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mmseg_daft.core.algorithm import is_untrained
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.engine.checkpoints import read_checkpoint
from mmseg_daft.engine.configs import type_name


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
    def new_parts(self) -> tuple[str, ...]:
        """The module's own submodules of which the file has nothing, such as a pooling that the pre-training lacked."""
        held = {name.partition('.')[0] for name in (*self.matched, *self.misshapen)}
        return tuple(dict.fromkeys(part for part in (name.partition('.')[0] for name in self.missing)
                                   if part not in held))

    @property
    def lost(self) -> tuple[str, ...]:
        """The names that do not match, but for those of new parts."""
        new = self.new_parts
        return (*self.misshapen, *(name for name in self.missing if name.partition('.')[0] not in new))

    def problem(self, min_share: float) -> str | None:
        """Say what is wrong with a match that is too poor to train from; ``None`` if it is good.

        A share of ``min_share`` of the tensors has to match, and the statistics of all batch norm but in new parts.
        """
        if self.share >= min_share and not any(name.endswith(('running_mean', 'running_var')) for name in self.lost):
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
        if self.matched and (new := self.new_parts):
            lines.append(f'It has nothing of {_some(new)}.')
        if self.prefix is not None:
            lines.append(f'The file has more of them under {self.prefix!r}: set prefix={self.prefix!r} in init_cfg.'
                         if self.prefix else 'The file has more of them without prefix: leave it out of init_cfg.')
        return ' '.join(lines)


class PretrainedStart(NamedTuple):
    """A module that takes its weights from a file.

    Attributes:
        name: The module's name in the model; empty for the model itself.
        module: The module.
        checkpoint: The file's path or address, as ``init_cfg`` has it.
        prefix: What the module's names begin with in the file, or ``None``.
        own_loading: Whether the module reads the file by code of its own, which may translate names (mmseg's Swin).
    """

    name: str
    module: nn.Module
    checkpoint: str
    prefix: str | None
    own_loading: bool

    def match(self) -> WeightMatch:
        """Read the file, as MMEngine does, and compare it with the module."""
        return match_file(self.module.state_dict(), self.checkpoint, self.prefix)


def pretrained_starts(model: nn.Module) -> Iterator[PretrainedStart]:
    """Yield the modules of a model that have ``init_cfg=dict(type='Pretrained', …)``."""
    for name, module in model.named_modules():
        cfgs = module.init_cfg if isinstance(module, BaseModule) else None
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs or ():
            if type_name(cfg) in ('Pretrained', PretrainedInit.__name__) and cfg.get('checkpoint'):
                yield PretrainedStart(name, module, cfg['checkpoint'], cfg.get('prefix'),
                                      _loads_by_itself(type(module)))


def _loads_by_itself(kind: type) -> bool:
    """Return whether a module's ``init_weights`` does more with a file than to let MMEngine's read it."""
    for owner in kind.__mro__[:kind.__mro__.index(BaseModule)]:
        if method := owner.__dict__.get('init_weights'):
            names = getattr(getattr(method, '__code__', None), 'co_names', ())
            if 'super' not in names or any('load' in name.lower() for name in names):
                return True
    return False


def self_loaded(model: nn.Module) -> dict[str, str | None]:
    """Return what is wrong with modules that read their weights while they were built (``TIMMBackbone``), by name.

    Only their batch norm can tell: timm itself takes a file of which nothing matches for one that is to be adapted.
    """
    problems: dict[str, str | None] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseModule) and module.is_init:
            new = [key for key, layer in module.named_modules() if isinstance(layer, BatchNorm) and is_untrained(layer)]
            problems[name] = f'{len(new)} batch-norm layers, for instance {new[0]}, have the statistics of a new ' \
                             'layer: its file is not that of this network, or it has none' if new else None
    return problems


def match_file(model: Mapping[str, Tensor], checkpoint: str, prefix: str | None = None) -> WeightMatch:
    """Read a checkpoint and compare it with a model's state dict; arguments as in MMEngine's ``Pretrained``.

    Raises:
        ValueError, OSError: As ``read_checkpoint``.
    """
    return match_weights(model, read_checkpoint(checkpoint)[0], prefix)


def match_weights(model: Mapping[str, Tensor], file: Mapping[str, object], prefix: str | None = None) -> WeightMatch:
    """Compare the names and shapes of a model's tensors with those of a file; arguments as in ``match_file``."""
    file = {name: value for name, value in file.items() if isinstance(value, Tensor)}
    if prefix is None:
        part = {name.removeprefix('module.'): tensor for name, tensor in file.items()}
    else:
        start = prefix.rstrip('.') + '.'
        part = {name.removeprefix(start): tensor for name, tensor in file.items() if name.startswith(start)}
    names = [name for name in model if not name.endswith('num_batches_tracked')]  # older files lack it
    matched = tuple(name for name in names if name in part and part[name].shape == model[name].shape)
    return WeightMatch(
        matched=matched,
        missing=tuple(name for name in names if name not in part),
        misshapen={name: (tuple(part[name].shape), tuple(model[name].shape))
                   for name in names if name in part and part[name].shape != model[name].shape},
        prefix=_better_prefix(set(names), file, len(matched)))


def _better_prefix(wanted: set[str], file: Mapping[str, Tensor], matched: int) -> str | None:
    prefixes: Counter[str] = Counter()
    for key in file:
        parts = key.split('.')
        prefixes.update('.'.join(parts[:i]) for i in range(len(parts)) if '.'.join(parts[i:]) in wanted)
    best, count = prefixes.most_common(1)[0] if prefixes else ('', 0)
    return best if count > matched else None


def _some(words: Sequence[str], most: int = 8) -> str:
    return ', '.join(words[:most]) + (f', and {len(words) - most} more' if len(words) > most else '')
