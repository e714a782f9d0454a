"""Find the batch-norm layers to convert, and run a model in eval mode."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmseg_daft.core.arguments import check_modules, inside
from mmseg_daft.core.compiled import uncompiled, without_compiler

BatchNorm = _BatchNorm
"""BatchNorm1d, BatchNorm2d, BatchNorm3d and SyncBatchNorm."""


def find_batch_norms(model: nn.Module, modules: str | Sequence[str]) -> dict[str, BatchNorm]:
    """Return the batch-norm layers inside some submodules of a model, by their full name.

    A layer that is registered under two names is listed once, under the first.

    Args:
        model: The model, without a distributed wrapper.
        modules: Dotted names of submodules, for instance ``('backbone',)`` or ``('backbone.layer3',
            'backbone.layer4')``; ``''`` is the whole model.

    Raises:
        ValueError: A name is not a submodule of the model, or no layer was found.
    """
    modules = (modules,) if isinstance(modules, str) else tuple(modules)
    check_modules(model := uncompiled(model), modules)
    names = dict(model.named_modules())
    layers: dict[str, BatchNorm] = {}
    for scope in modules:
        layers.update((name, module) for name, module in names.items()
                      if isinstance(module, BatchNorm) and inside(name, (scope,)))
    if not layers:
        norms = sorted({type(m).__name__ for m in model.modules() if 'Norm' in type(m).__name__})
        raise ValueError(
            f'{f"modules={modules!r} hold" if any(modules) else "The model holds"} no batch-norm layer, so there is '
            f'nothing to convert (normalization layers of the whole model: {norms or "none"}). Name modules that hold '
            'BatchNorm or SyncBatchNorm, or fine-tune without the conversion.')
    return layers


def why_not_convertible(layer: BatchNorm) -> str | None:
    """Say why a layer cannot be converted; ``None`` if it can: Eq. 4 and 5 need all four of its tensors."""
    if layer.running_mean is None or layer.running_var is None:
        return 'it keeps no running statistics (track_running_stats=False)'
    if layer.weight is None or layer.bias is None:
        return 'it has no γ and β to take up the change of its statistics (affine=False)'
    return None


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, the paper's *test mode*, uncompiled; give every module its mode back in any case."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with without_compiler():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
