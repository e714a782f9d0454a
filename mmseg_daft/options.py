"""Arguments that several commands have, and what they may be; nothing heavy is imported."""

import argparse
from collections.abc import Callable
from math import inf, isfinite
from typing import TypeVar

Number = TypeVar('Number', int, float)


def at_least(least: int, most: float = inf, kind: type[Number] = int) -> Callable[[str], Number]:
    """Return a ``type`` for argparse: whole numbers, or finite ones of another ``kind``, from ``least`` to ``most``."""
    sort = 'a whole number' if kind is int else 'a number'
    right = f'{sort} of at least {least}' if most == inf else f'{sort} from {least} to {most}'
    return _reader(kind, lambda value: isfinite(value) and least <= value <= most, right)


def above(bound: float, below: float = inf) -> Callable[[str], float]:
    """Return a ``type`` for argparse: finite numbers larger than ``bound``, and smaller than ``below``."""
    right = f'a number above {bound}' if below == inf else f'a number between {bound} and {below}'
    return _reader(float, lambda value: isfinite(value) and bound < value < below, right)


def within(least: float, most: float) -> Callable[[str], float]:
    """Return a ``type`` for argparse: numbers from ``least`` to ``most``."""
    return _reader(float, lambda value: least <= value <= most, f'a number from {least} to {most}')


def _reader(kind: type[Number], holds: Callable[[Number], bool], right: str) -> Callable[[str], Number]:
    def read(word: str) -> Number:
        try:
            value = kind(word)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f'give {right}, not {word!r}')
        return value

    return read


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, as mmseg's own tools have it."""
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='settings that replace those of CONFIG')
