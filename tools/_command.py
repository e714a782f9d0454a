"""Start a command of ``mmseg-daft`` from a file of its own, as mmseg's users start its tools."""

import runpy
import sys
from pathlib import Path


def start(name: str) -> None:
    """Run ``python -m mmseg_daft NAME`` in this process, with the arguments that the file was given.

    The package of a checkout is used, installed or not.
    """
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.argv[:1] = ['mmseg-daft', name]
    runpy.run_module('mmseg_daft', run_name='__main__', alter_sys=True)
