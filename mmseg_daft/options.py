"""Arguments that several commands have, and what they may be; nothing heavy is imported."""

import argparse
from collections.abc import Callable
from math import inf, isfinite, nan


def at_least(least: int, most: float = inf) -> Callable[[str], int]:
    """Return a ``type`` for argparse: whole numbers from ``least`` on, up to ``most``."""
    right = f'a whole number of at least {least}' if most == inf else f'a whole number from {least} to {most}'

    def whole_number(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f'give {right}, not {word!r}')
        return number

    return whole_number


def above(bound: float, below: float = inf) -> Callable[[str], float]:
    """Return a ``type`` for argparse: finite numbers larger than ``bound``, and smaller than ``below``."""
    right = f'a number above {bound}' if below == inf else f'a number between {bound} and {below}'

    def number(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = nan
        if not (isfinite(value) and bound < value < below):
            raise argparse.ArgumentTypeError(f'give {right}, not {word!r}')
        return value

    return number


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, as mmseg's own tools have it."""
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='settings that replace those of CONFIG')
