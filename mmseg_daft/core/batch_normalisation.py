"""Let batch-norm layers in test mode normalise by mini-batch, as adapted layers would."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import torch
import torch.distributed as dist
from torch import nn

from mmseg_daft.core.batch_moments import BatchMoments, join, mean_and_var
from mmseg_daft.core.batch_norm import BatchNorm


class BatchNormalisation:
    """Write a mini-batch's moments where a layer in test mode looks for its running statistics.

    Unlike training mode this works for SyncBatchNorm on CPUs as well, needs no batch on every rank, and leaves the
    counters alone. A context manager: the layers' own tensors are back afterwards.

    Args:
        layers: The layers, by name.

    Attributes:
        joint: Names of the layers that normalise by all ranks' mini-batches together; each call of one is a
            collective, so all ranks have to run forward passes side by side.
        idle: This rank's mini-batch is a stand-in and does not count in them.
    """

    def __init__(self, layers: Mapping[str, BatchNorm]) -> None:
        self.layers = layers
        self.ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.joint = {name for name, layer in layers.items() if self.ranks > 1 and isinstance(layer, nn.SyncBatchNorm)}
        self.idle = False

    def __enter__(self) -> BatchNormalisation:
        """Keep copies of the running statistics."""
        self._own = {n: (layer.running_mean.clone(), layer.running_var.clone()) for n, layer in self.layers.items()}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put the running statistics back."""
        for name, (mean, var) in self._own.items():
            self.layers[name].running_mean.copy_(mean)
            self.layers[name].running_var.copy_(var)

    def apply(self, name: str, moments: BatchMoments) -> None:
        """Let a layer normalise its next input by these moments."""
        (mean, var), count = mean_and_var(moments.sums.double(), moments.count), moments.count
        if name in self.joint:
            mine = torch.stack([mean, var, torch.full_like(mean, 0 if self.idle else count)])
            everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
            dist.all_gather(everyone, mine)
            mean, var, total = join(*torch.stack(everyone, 1))
            count = max(int(total[0]), 1)
        self.layers[name].running_mean.copy_(mean)
        self.layers[name].running_var.copy_(var * (1 - 1 / count))
