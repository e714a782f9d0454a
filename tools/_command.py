"""Start a command of ``mmseg-daft`` from a file of its own, as mmseg's users start its tools."""

import os
import runpy
import sys
from pathlib import Path


def start(name: str) -> None:
    """Run ``python -m mmseg_daft NAME`` in this process, with the arguments that the file was given.

    In a checkout the package need not be installed: this process and those that it starts find it there.
    """
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get('PYTHONPATH')]))
    sys.argv[:1] = ['mmseg-daft', name]
    runpy.run_module('mmseg_daft', run_name='__main__', alter_sys=True)
