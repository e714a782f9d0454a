"""The console that commands print to, and silence for the libraries beneath them."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """Return a console of the terminal's width, or 100 columns in a pipe or a file, unless ``COLUMNS`` says another."""
    console = Console(highlight=False, **options)
    if not console.is_terminal and 'COLUMNS' not in os.environ:
        console.width = 100
    return console


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed, logged to the console or warned about, also by libraries in C (image decoders)."""
    # Not a file: loggers made in here keep their stream, and write to it later.
    nowhere = io.StringIO()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        with redirect_stdout(nowhere), redirect_stderr(nowhere), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
