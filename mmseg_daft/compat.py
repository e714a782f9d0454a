"""Repairs that the released OpenMMLab versions need, and nothing more.

| repair | needed where | what it changes |
|---|---|---|
| ``allow_mmengine_checkpoints`` | torch >= 2.6 | ``torch.load`` accepts the types that MMEngine writes |
| ``copy_sliced_datasets`` | ``num_batch_per_epoch`` | a data set can be copied, as for a pass over it |
| ``count_deterministically`` | ``randomness=dict(deterministic=True)``, a GPU | ``IoUMetric`` counts on the CPU then |
| ``explain_empty_dataset`` | a data set is empty | MMEngine's error says so, and what to check |
| ``stand_in_for_missing_ops`` | mmseg < 1.4 with mmcv-lite | ``import mmseg`` works; an op raises when called |

None does anything where it is not needed. They run when ``mmseg_daft`` is imported, before anything imports mmseg.
"""

import importlib.util
import sys
from functools import wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import HistoryBuffer
from mmengine.runner import runner
from packaging.version import Version


def repair() -> None:
    """Apply each repair that the installed versions need; calling it again does nothing."""
    allow_mmengine_checkpoints()
    explain_empty_dataset()
    copy_sliced_datasets()
    if importlib.util.find_spec('mmseg'):
        stand_in_for_missing_ops()
        count_deterministically()


def _history_buffer_method(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which a HistoryBuffer refers to its four statistics methods."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise ValueError(f'a checkpoint asks for attribute {name!r} of {owner!r}, which MMEngine never writes')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)``, the default since torch 2.6, read MMEngine's checkpoints.

    They hold the message hub, whose ``HistoryBuffer`` objects are neither tensors nor plain data (MMEngine issue 1655).
    Only what MMEngine writes is allowed; ``weights_only`` stays on.
    """
    if Version(torch.__version__) < Version('2.6'):
        return
    multiarray = (np._core if Version(np.__version__) >= Version('2') else np.core).multiarray
    private = [(getattr(multiarray, name), f'{module}.multiarray.{name}')
               for name in ('_reconstruct', 'scalar') for module in ('numpy.core', 'numpy._core')]
    public = [HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(name)) for name in ('float32', 'float64', 'int64'))]
    torch.serialization.add_safe_globals([
        # With their names: onedl-mmengine takes types without from the list again after each load of its own.
        *((kind, f'{kind.__module__}.{kind.__qualname__}') for kind in public),
        *private,
        (_history_buffer_method, 'builtins.getattr')])


def explain_empty_dataset() -> None:
    """Let MMEngine's data sets say what to check when they find no sample; nothing else changes.

    MMEngine serializes the list of samples before any hook or loop runs; of an empty list it says only "need at least
    one array to concatenate".
    """
    serialize = BaseDataset._serialize_data
    if hasattr(serialize, '__wrapped__'):
        return

    @wraps(serialize)
    def checked(self: BaseDataset) -> Any:
        if not self.data_list:
            raise ValueError(
                f'{type(self).__name__} found no image with data_root={self.data_root!r}, '
                f'ann_file={self.ann_file!r}, data_prefix={dict(self.data_prefix)!r}. Check these paths, and '
                'img_suffix and seg_map_suffix.')
        return serialize(self)

    BaseDataset._serialize_data = checked


def copy_sliced_datasets() -> None:
    """Let a data set be copied, and sent to workers that are spawned, where a loader has ``num_batch_per_epoch``.

    A new copy of MMEngine's wrapper asks the data set that it does not hold yet for ``__setstate__``, without end.
    """
    if '__setstate__' not in vars(runner._SlicedDataset):
        runner._SlicedDataset.__setstate__ = lambda self, state: vars(self).update(state)


class _MissingOps(ModuleType):
    """Stands where mmcv's compiled extension would, with every op raising when it is called."""

    def __init__(self) -> None:
        super().__init__('mmcv._ext')
        # A spec without a loader keeps MMEngine's mmcv_full_available() False, as is true.
        self.__spec__ = ModuleSpec('mmcv._ext', loader=None)

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
    """Let mmseg be imported with mmcv-lite: compiled ops fail when they are called, not when they are imported.

    mmseg 1.2.2 imports ``mmcv.ops`` from several of its heads, though few models use an op (DeepLabv3+ uses none), and
    mmcv-lite has no ``mmcv._ext`` (mmseg issue 126, mmcv issue 2059). A compiled mmcv stays untouched. The fork
    onedl-mmsegmentation, from 1.4 on, can be imported without ops by itself.
    """
    from mmseg.version import __version__ as mmseg_version

    if Version(mmseg_version) < Version('1.4') and importlib.util.find_spec('mmcv._ext') is None:
        sys.modules['mmcv._ext'] = _MissingOps()


def count_deterministically() -> None:
    """Let mmseg's IoUMetric count on the CPU while deterministic algorithms are on.

    It counts by ``torch.histc``, which has no deterministic version on a GPU and raises (torch's documentation of
    ``use_deterministic_algorithms``): every such run would end at its first validation.
    """
    from mmseg.evaluation import IoUMetric

    count = IoUMetric.intersect_and_union
    if hasattr(count, '__wrapped__'):
        return

    @wraps(count)
    def counted(pred_label: torch.Tensor, label: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.are_deterministic_algorithms_enabled():
            pred_label, label = pred_label.cpu(), label.cpu()
        return count(pred_label, label, *args, **kwargs)

    IoUMetric.intersect_and_union = staticmethod(counted)
