"""Repairs that released OpenMMLab versions need on today's PyTorch, and nothing more.

| repair | needed where | what it changes |
|---|---|---|
| ``mmcv_ops`` | mmcv has no compiled ops (mmcv-lite) | ``import mmseg`` works; an op raises when called |
| ``checkpoint_types`` | torch >= 2.6 | ``torch.load`` accepts the types that MMEngine writes |

Neither does anything where the installed versions do not need it. Both run when ``mmseg_daft`` is
imported.
"""

from mmseg_daft.compat.checkpoint_types import allow_mmengine_checkpoints
from mmseg_daft.compat.mmcv_ops import stand_in_for_missing_ops


def repair() -> None:
    """Apply each repair that the installed versions need; calling it again does nothing."""
    stand_in_for_missing_ops()
    allow_mmengine_checkpoints()


__all__ = ['repair']
