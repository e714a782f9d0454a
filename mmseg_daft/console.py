"""The console that commands print to, and silence for the libraries beneath them."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


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


def print_table(
    console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1,
) -> None:
    """Print a table; of its columns the first ``texts`` are folded where they do not fit, or all if it is 0."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify='left' if i < max(1, texts) else 'right', overflow='fold',
                         no_wrap=0 < texts <= i)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(f'\n[bold]{title}[/]')
    console.print(table)
