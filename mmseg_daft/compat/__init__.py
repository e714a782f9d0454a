"""Repairs that the released OpenMMLab versions need, and nothing more.

| repair | needed where | what it changes |
|---|---|---|
| ``mmcv_ops`` | mmseg < 1.4 with mmcv-lite | ``import mmseg`` works; an op raises when called |
| ``checkpoint_types`` | torch >= 2.6 | ``torch.load`` accepts the types that MMEngine writes |
| ``empty_dataset`` | a data set is empty | MMEngine's error says so, and what to check |

None does anything where it is not needed. They run when ``mmseg_daft`` is imported.
"""

from mmseg_daft.compat.checkpoint_types import allow_mmengine_checkpoints
from mmseg_daft.compat.empty_dataset import explain_empty_dataset
from mmseg_daft.compat.mmcv_ops import stand_in_for_missing_ops


def repair() -> None:
    """Apply each repair that the installed versions need; calling it again does nothing."""
    stand_in_for_missing_ops()
    allow_mmengine_checkpoints()
    explain_empty_dataset()


__all__ = ['repair']
