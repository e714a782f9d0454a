"""Let mmseg be imported with mmcv-lite: compiled ops fail when called, not when imported.

mmseg 1.2.2 imports ``mmcv.ops`` from several of its heads, though few models use an op (DeepLabv3+
uses none), and mmcv-lite has no ``mmcv._ext`` (mmseg issue 126, mmcv issue 2059).
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from mmseg.version import __version__ as mmseg_version
from packaging.version import Version

_NAME = 'mmcv._ext'


class _MissingOps(ModuleType):
    """Stands where mmcv's compiled extension would, with every op raising when it is called."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        # A spec without a loader keeps MMEngine's mmcv_full_available() False, as is true.
        self.__spec__ = ModuleSpec(_NAME, loader=None)

    def __getattr__(self, op: str) -> Any:
        if op.startswith('__'):
            raise AttributeError(op)

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise RuntimeError(
                f'This model calls the compiled mmcv op {op!r}, which mmcv-lite does not have. Install the full '
                'mmcv (pip uninstall mmcv-lite; pip install "mmcv>=2.1,<2.2", which may compile for a while), or '
                'choose a model without it.')

        return missing


def stand_in_for_missing_ops() -> None:
    """Put the stand-in in place where mmcv has no compiled ops; a compiled mmcv stays untouched.

    The fork onedl-mmsegmentation, from 1.4 on, can be imported without ops by itself.
    """
    if Version(mmseg_version) >= Version('1.4'):
        return
    if _NAME not in sys.modules and importlib.util.find_spec(_NAME) is None:
        sys.modules[_NAME] = _MissingOps()
