"""What the tests share: small data sets and networks, runs of mmseg, processes, a throw-away Slurm."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ON_FORK = any(part.metadata['Name'] == 'onedl-mmengine' for part in importlib.metadata.distributions())
"""Whether mmseg and its packages are those of the maintained fork."""


def environment(**variables: Any) -> dict[str, str]:
    """Return this process's environment for a subprocess that imports ``mmseg_daft`` from here, and ``support``."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH')]))
    return dict(os.environ, PYTHONPATH=path, **{name: str(value) for name, value in variables.items()})
