"""Arguments that several commands have, and what they may be; nothing heavy is imported."""

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """Return a ``type`` for argparse: whole numbers from ``least`` on."""
    def whole_number(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f'give a whole number of at least {least}, not {word!r}')
        return number

    return whole_number


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, as mmseg's own tools have it."""
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='settings that replace those of CONFIG')
