"""Distributed training on CPUs: what MMEngine's own wrapper does on GPUs."""

from typing import Any

from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import nn


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` for models on the CPU.

    SyncBatchNorm trains on GPUs alone, so it becomes plain batch norm: each process normalizes with its
    own share of the batch.

    Arguments are those of ``MMDistributedDataParallel``; ``device_ids`` is dropped, which MMEngine sets to GPU numbers,
    and ``broadcast_buffers`` is False unless given, as MMEngine sets it: each process keeps its own running statistics.
    """

    def __init__(self, module: nn.Module, **kwargs: Any) -> None:
        kwargs.update(device_ids=None)
        kwargs.setdefault('broadcast_buffers', False)
        super().__init__(module=revert_sync_batchnorm(module), **kwargs)
