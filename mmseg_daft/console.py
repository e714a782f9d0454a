"""The console that commands print to."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """Return a console of the terminal's width, or 100 columns in a pipe or a file, unless ``COLUMNS`` says another."""
    console = Console(highlight=False, **options)
    if not console.is_terminal and 'COLUMNS' not in os.environ:
        console.width = 100
    return console
