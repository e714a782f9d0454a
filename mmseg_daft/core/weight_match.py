"""How much of a model a file of pre-trained weights fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

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
