"""Random small networks of every layer kind that a conversion is about."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Convolution, batch norm and ReLU ``depth`` times; one pair is used twice where ``shared``."""

    def __init__(self, dims: int, depth: int, sync: bool = False, shared: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        norm = nn.SyncBatchNorm if sync else {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
        self.convs = nn.ModuleList([conv(5, 5, 3, padding=1) for _ in range(depth)])
        self.norms = nn.ModuleList([norm(5, eps=eps) for _ in range(depth)])
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms):
            x = torch.relu(norm(conv(x)))
        return self.norms[0](self.convs[0](x)) if self.shared else x


def pretrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give each batch-norm layer γ, β and running statistics of a network that was trained."""
    g = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            shape = (layer.num_features,)
            if layer.weight is not None:
                layer.weight.data = torch.randn(shape, generator=g, dtype=layer.weight.dtype)
                layer.bias.data = torch.randn(shape, generator=g, dtype=layer.bias.dtype)
            if layer.running_mean is not None:
                layer.running_mean.copy_(torch.randn(shape, generator=g))
                layer.running_var.copy_(torch.rand(shape, generator=g) * 3 + 0.05)
    return model
