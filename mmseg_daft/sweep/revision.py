"""Which code it is: the commit of a checkout."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def revision(folder: Path) -> str:
    """Return the commit of a folder's repository, with a + where files differ from it, or '' outside of git."""
    words = ['git', '-C', str(folder), 'describe', '--always', '--abbrev=12', '--exclude=*', '--dirty=+']
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def revisions(attempts: Iterable[Mapping[str, Any]]) -> str:
    """Return the commits that a run was trained with, in order: several, where the code changed between its starts."""
    return ', '.join(dict.fromkeys(attempt.get('revision') or 'unknown' for attempt in attempts))
