"""What the authors' released code computes, in plain PyTorch, for a backbone whose last feature a linear head reads.

Written from facts about that repository (hsh1108/DAFT at 7e53240), with none of its code and none of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MOMENTUM = 0.9


@dataclass(frozen=True)
class Released:
    """How a method is set up there; its own head and its rates decide nothing else."""

    eval_mode: bool  # of the whole network while it trains
    convert: bool = False
    zero_head: bool = False  # wherever the head has a rate of its own
    head_only: bool = False


METHODS = {
    'lp': Released(eval_mode=True, head_only=True),  # there a logistic regression on features: the same function
    'ft': Released(eval_mode=False),
    'lpft': Released(eval_mode=True),
    'daft': Released(eval_mode=False, convert=True, zero_head=True),  # the second step of its search
    'ft-conversion': Released(eval_mode=False, convert=True, zero_head=True),  # as the text says
    'ft-conversion, as its file says': Released(eval_mode=True, convert=True, zero_head=True),
    'lpft-conversion': Released(eval_mode=False, convert=True),
    'integrated-lpft': Released(eval_mode=True, zero_head=True),  # and the first step of DAFT's search
    'two-rates': Released(eval_mode=False, zero_head=True)}  # not there: DAFT but for the conversion


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Return all batch-norm layers by name, whatever else they do."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)}


def statistics(network: nn.Module, batches: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each layer's mean and unbiased variance over (0, 2, 3), as plain means over the mini-batches.

    In a copy in eval mode, whose layers' forward is replaced by batch norm alone.
    """
    copied = copy.deepcopy(network)
    copied.eval()
    seen = {name: ([], []) for name in batch_norms(copied)}
    for name, layer in batch_norms(copied).items():
        def forward(x: Tensor, name: str = name, layer: nn.Module = layer) -> Tensor:
            means, variances = seen[name]
            means.append(x.mean((0, 2, 3)))
            variances.append(torch.var(x, (0, 2, 3)))
            return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)

        layer.forward = forward
    with torch.no_grad():
        for images in batches:
            copied(images)
    return {name: (sum(means) / len(means), sum(variances) / len(variances))
            for name, (means, variances) in seen.items()}


@torch.no_grad()
def convert(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Replace γ, β and the running statistics of every batch norm."""
    found = statistics(network, batches)
    for name, layer in batch_norms(network).items():
        (mean, var), old = found[name], torch.sqrt(layer.running_var + layer.eps)
        layer.bias += layer.weight * (mean - layer.running_mean) / old
        layer.weight *= torch.sqrt(var + layer.eps) / old
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)


def train(
    method: Released,
    backbone: nn.Module,
    head: nn.Module,
    target: Sequence[Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    rates: tuple[float, float],
    factors: Sequence[float],
    weight_decay: float = 0.0,
) -> Iterator[dict[str, Tensor]]:
    """Yield the state before every step of SGD, and at the end.

    Args:
        method: What is trained, and how.
        backbone, head: As they start.
        target: The mini-batches of images that a conversion sees.
        batches: Those of images and labels that the training sees.
        rates: Of backbone and head, as the training begins.
        factors: Of both rates, by step.
        weight_decay: Of all parameters.
    """
    if method.convert:
        convert(backbone, target)
    if method.zero_head:
        for parameter in head.parameters():
            parameter.data.zero_()
    parts = [(head, rates[1])] if method.head_only else [(backbone, rates[0]), (head, rates[1])]
    velocity: dict[Tensor, Tensor] = {}
    backbone.train(not method.eval_mode)
    for (images, labels), factor in zip(batches, factors, strict=True):
        yield _state(backbone, head)
        logits = F.interpolate(head(backbone(images)[-1]), labels.shape[1:], mode='bilinear', align_corners=False)
        labeled = (labels != 255).sum().item() + torch.finfo(torch.float32).eps  # which mmseg adds
        loss = F.cross_entropy(logits, labels, ignore_index=255, reduction='sum') / labeled
        rate_of = {parameter: rate for part, rate in parts for parameter in part.parameters()}
        for (parameter, rate), slope in zip(rate_of.items(), torch.autograd.grad(loss, [*rate_of]), strict=True):
            velocity[parameter] = MOMENTUM * velocity.get(parameter, 0) + slope + weight_decay * parameter.data
            parameter.data -= factor * rate * velocity[parameter]
    yield _state(backbone, head)


def _state(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    return {f'{part}.{name}': tensor.clone() for part, module in (('backbone', backbone), ('head', head))
            for name, tensor in module.state_dict().items()}
