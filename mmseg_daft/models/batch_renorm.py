"""Batch Renormalization, for backbones whose running statistics are known when training starts."""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


@MODELS.register_module(name='BatchRenorm')
class BatchRenorm2d(nn.BatchNorm2d):
    """Batch norm whose output in train mode is that in eval mode (Ioffe, NeurIPS 2017), without clipping.

    A mini-batch with mean μ and standard deviation σ is normalized by them, and corrected by r = σ / σᵣ and
    d = (μ - μᵣ) / σᵣ, where μᵣ and σᵣ are the running ones:

        x̂ = (x - μ) / σ · r + d = (x - μᵣ) / σᵣ.

    The gradient takes r and d for constants, so it goes through the mini-batch's statistics, as batch norm's does.
    Ioffe clips r and d, at first to 1 and 0, because a new network's running statistics are wrong; those of a
    pre-trained backbone are not, and nothing is clipped. In a config::

        model = dict(backbone=dict(norm_cfg=dict(type='BatchRenorm')))

    Running statistics move as batch norm's do: μᵣ and the unbiased variance, not the standard deviation. Eval mode and
    checkpoints are batch norm's.

    Raises:
        ValueError: At once: there are no running statistics, ``momentum`` is None, or there are several ranks.
    """

    def __init__(self, num_features: int, *args: Any, **options: Any) -> None:
        super().__init__(num_features, *args, **options)
        if not (self.affine and self.track_running_stats) or self.momentum is None:
            raise ValueError('BatchRenorm corrects by running statistics: it needs affine=True, '
                             'track_running_stats=True and a momentum.')
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise ValueError(
                f'BatchRenorm takes the statistics of one process, and there are {dist.get_world_size()}: running '
                'statistics and corrections would differ between them. Train on one GPU, with the whole batch.')

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)``; in train mode the running statistics move, too."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        with torch.no_grad():
            values = x if x.dtype == torch.float64 else x.float()
            var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
            running_std = (self.running_var + self.eps).sqrt()
            r, d = (var + self.eps).sqrt() / running_std, (mean - self.running_mean) / running_std
            self.num_batches_tracked.add_(1)
        # γ (x̂ r + d) + β, with r and d taken into γ and β
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight * r, self.weight * d + self.bias,
                            True, self.momentum, self.eps)
