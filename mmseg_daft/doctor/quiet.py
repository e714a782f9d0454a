"""Keep other packages' chatter out of the one screen."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


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
