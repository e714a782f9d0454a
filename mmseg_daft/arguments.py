"""Numbers on the command line: of the right kind and in their range, or a sentence that says which would do.

The standard library alone: the help of a command is there at once.
"""

from argparse import ArgumentTypeError
from collections.abc import Callable
from math import inf, isfinite, nan


def whole_number(least: int, most: float = inf) -> Callable[[str], int]:
    """Return the ``type`` of an argument that is a whole number in a range, its ends included."""
    right = f'a whole number of at least {least}' if most == inf else f'a whole number from {least} to {most}'

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise ArgumentTypeError(f'{text} does not fit; give {right}.')
        return value

    return parse


def number_above(bound: float, below: float = inf) -> Callable[[str], float]:
    """Return the ``type`` of an argument that is a finite number above a bound, and below another one."""
    right = f'a number above {bound}' if below == inf else f'a number between {bound} and {below}'

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not (isfinite(value) and bound < value < below):
            raise ArgumentTypeError(f'{text} does not fit; give {right}.')
        return value

    return parse
