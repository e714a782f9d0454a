"""Which batch-norm layers of a model a conversion is about, and which of them can be converted.

Run a model in test mode and give every module its own mode back.

Compute in full float32 for a while, on GPUs that would round to TF32.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNorm = _BatchNorm
"""BatchNorm1d, BatchNorm2d, BatchNorm3d and SyncBatchNorm alike."""


def find_batch_norms(model: nn.Module, modules: Sequence[str]) -> dict[str, BatchNorm]:
    """Return the batch-norm layers inside the named modules of a model, by their full name.

    A layer that is registered under two names is listed once, under the first.

    Args:
        model: The model, without a distributed wrapper.
        modules: Dotted names of submodules, for instance ``('backbone',)`` or
            ``('backbone.layer3', 'backbone.layer4')``; ``('',)`` is the whole model.

    Raises:
        ValueError: A name is not a submodule of the model, or no layer was found.
    """
    if isinstance(modules, str):
        modules = (modules,)
    names = dict(model.named_modules())
    layers: dict[str, BatchNorm] = {}
    for scope in modules:
        if scope not in names:
            children = [name for name in names if name.count('.') == scope.count('.')]
            near = difflib.get_close_matches(scope, [name for name in names if name], n=3) or children
            raise ValueError(
                f'modules={tuple(modules)!r}: the model has no submodule {scope!r}. '
                f'Did you mean one of {sorted(name for name in near if name)}?')
        for name, module in names.items():
            if isinstance(module, BatchNorm) and (not scope or f'{name}.'.startswith(f'{scope}.')):
                layers[name] = module
    if not layers:
        norms = sorted({type(m).__name__ for m in model.modules() if 'Norm' in type(m).__name__})
        raise ValueError(
            f'modules={tuple(modules)!r} hold no batch-norm layer, so there is nothing to convert '
            f'(normalisation layers of the whole model: {norms or "none"}). Name modules that hold '
            'BatchNorm or SyncBatchNorm, or fine-tune without the conversion.')
    return layers


def why_not_convertible(layer: BatchNorm) -> str | None:
    """Say why a layer cannot be converted, or return None where it can.

    The conversion keeps the test-mode function by moving the change of the statistics into γ and β
    (Eq. 4 and 5), so it needs all four tensors.
    """
    if layer.running_mean is None or layer.running_var is None:
        return 'it keeps no running statistics (track_running_stats=False)'
    if layer.weight is None or layer.bias is None:
        return 'it has no γ and β to take up the change of its statistics (affine=False)'
    return None


def has_initial_statistics(layer: BatchNorm) -> bool:
    """Whether the running statistics are those of a layer that was never trained: mean 0, variance 1."""
    return bool((layer.running_mean == 0).all()) and bool((layer.running_var == 1).all())


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in test mode; restore each module's mode afterwards, also after an error.

    Modes are kept per module: a model may hold frozen parts that stay in test mode in training.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


eval_mode.__test__ = False  # pytest takes functions by their name


@contextmanager
def without_tf32() -> Iterator[None]:
    """Switch TF32 off for convolutions and matrix products; restore both settings afterwards."""
    switches, name, off = _switches()
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, off)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


def float32_precision() -> str:
    """Return what float32 convolutions and matrix products round to on a GPU, as torch's settings have it."""
    switches, name, _ = _switches()
    return f'{name} {", ".join(str(getattr(switch, name)) for switch in switches)}'


def _switches() -> tuple[tuple[Any, Any], str, Any]:
    """torch >= 2.9 has ``fp32_precision`` for this and refuses to mix it with the older ``allow_tf32``."""
    if hasattr(torch.backends.cudnn, 'conv'):
        return (torch.backends.cudnn.conv, torch.backends.cuda.matmul), 'fp32_precision', 'ieee'
    return (torch.backends.cudnn, torch.backends.cuda.matmul), 'allow_tf32', False
