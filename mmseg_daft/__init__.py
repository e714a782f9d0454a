"""Domain-Aware Fine-Tuning (Ha, Jeong, Lee, AAAI 2024) for MMSegmentation.

Importing this package registers ``BNConversionHook``, ``DAFTOptimWrapperConstructor``, data sets, models and transforms
with MMEngine and MMSegmentation, where they are installed. In a config::

    custom_imports = dict(imports=['mmseg_daft'])

The method itself, ``mmseg_daft.core``, is PyTorch alone and works without either.
"""

import importlib
import sys
import warnings
from importlib.util import find_spec
from itertools import pairwise
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from mmseg_daft.version import __version__

__all__ = ['BNConversionHook', 'DAFTOptimWrapperConstructor', '__version__', 'register']


def register() -> None:
    """Register everything with MMEngine and MMSegmentation, as far as they are installed.

    ``mmseg_daft.compat`` repairs what it can of the installed versions first, before anything imports mmseg.
    """
    if find_spec('mmengine'):
        importlib.import_module('mmseg_daft.compat').repair()
        importlib.import_module('mmseg_daft.engine')
        if find_spec('mmseg'):
            importlib.import_module('mmseg_daft.datasets')
            importlib.import_module('mmseg_daft.models')
            importlib.import_module('mmseg_daft.evaluation.corruptions')
            importlib.import_module('mmseg_daft.evaluation.sets')


def _is_command_line() -> bool:
    """Return whether this is ``mmseg-daft`` or ``python -m mmseg_daft``: its commands register when they need it.

    A worker process that they spawn is not, though it inherits their arguments.
    """
    script = sys.argv[0] if sys.argv else ''
    module = script == '-m' and ('-m', 'mmseg_daft') in pairwise(sys.orig_argv)
    return (module or Path(script).name == 'mmseg-daft') and parent_process() is None


def __getattr__(name: str) -> Any:
    """Return one of the two classes that users import from here; they need MMEngine."""
    if name in ('BNConversionHook', 'DAFTOptimWrapperConstructor'):
        return getattr(importlib.import_module('mmseg_daft.engine'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


if not _is_command_line():
    _from_config = 'mmengine' in sys.modules  # an error there has to be one
    try:
        register()
    except Exception as error:
        if _from_config:
            raise
        warnings.warn(f'mmseg_daft is not registered with MMEngine, only mmseg_daft.core works: {error!r}. '
                      'mmseg-daft doctor CONFIG says what to install.', stacklevel=2)
