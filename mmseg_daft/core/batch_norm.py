"""Which batch-norm layers of a model a conversion is about, and which of them can be converted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

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
