"""Algorithm 1 of Domain-Aware Fine-Tuning (Ha, Jeong, Lee, AAAI 2024) for any PyTorch model, with all guards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import BatchNorm, eval_mode, find_batch_norms, why_not_convertible
from mmseg_daft.core.conversion import LayerTensors, convert, write
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        modules: Where it looked for layers.
        statistics: The target statistics of each converted layer, by name.
        source: What the converted layers held before: ``write(layers, source)`` undoes the conversion.
        left: Why a layer was left as it is, by name.
        output_change: The largest change of the eval-mode output on a mini-batch, relative to the largest output.
    """

    modules: Sequence[str]
    statistics: Mapping[str, LayerStatistics]
    source: Mapping[str, LayerTensors]
    left: Mapping[str, str]
    output_change: float

    def summary(self) -> str:
        """Say it in a line."""
        converted, left = len(self.source), len(self.left)
        return (f'BN conversion of {", ".join(self.modules) or "the model"}: {converted + left} layers found, '
                f'{converted} converted, {left} left as they are; eval-mode output changed by {self.output_change:.1e}')


def convert_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    modules: Sequence[str] = ('',),
    forward: Callable[[Any], Any] | None = None,
    *,
    outputs: Callable[[Any], Any] | None = None,
    tolerance: float = 1e-4,
    allow_untrained: bool = False,
    variant: Any = None,
    statistics: Mapping[str, LayerStatistics] | None = None,
    stop: Callable[[Any], bool] | None = None,
    ranks: Any = None,
) -> ConversionReport:
    """Convert a pre-trained model's batch norm to a target domain, in place, or leave the model as it was and raise.

    Args:
        model: The model, without a distributed wrapper.
        batches: The target's training data in mini-batches, each image once.
        modules: The submodules to convert the batch norm of; ``('',)`` is the whole model.
        forward: Runs the model on a mini-batch, as far as the layers need it. By default the model is called with the
            mini-batch or, if that is a tuple or list, with its first element, on the model's device.
        outputs: Returns what must not change, tensors in any nesting; ``forward`` by default.
        tolerance: The largest relative change of the outputs that passes as float noise.
        allow_untrained: Convert layers whose statistics are those of a new layer, too.
        variant: ``variant.ConversionVariant``, for ablations.
        statistics: Of each layer, if they are known: then the pass is left out, and one mini-batch is enough.
        stop: ``stop_rule.StopRule``, to end the pass early.
        ranks: ``ranks.Ranks`` where several processes share the pass; all have to call this function.

    Raises:
        ValueError: A submodule is misspelt or has no batch norm, a layer cannot be converted, was never trained or
            never reached, layers share a tensor, there are no data, or they or the weights hold NaN.
        RuntimeError: The outputs changed, or another rank failed.
    """
    modules = (modules,) if isinstance(modules, str) else tuple(modules)
    found = find_batch_norms(model, modules)
    layers = convertible_layers(found, modules, allow_untrained)
    compensate = variant is None or variant.compensate
    forward = forward or (lambda batch: model(_inputs(batch, model)))
    first: list[Any] = []

    def kept() -> Iterator[Any]:
        for batch in batches:
            first[:] = first or [batch]
            yield batch

    if statistics is None:
        statistics = collect_statistics(model, layers, kept(), forward, not compensate, stop, ranks)
        _refuse_unreached(statistics)
    else:
        (ranks.together if ranks else lambda make: make())(lambda: next(kept(), None))
    before = _eval_outputs(model, outputs or forward, first)
    source = convert(layers, statistics, variant)
    try:
        change = _largest_change(before, _eval_outputs(model, outputs or forward, first))
        change = ranks.largest(change) if ranks else change
        if compensate and not change <= tolerance:  # NaN is past it, too
            raise RuntimeError(
                f'The conversion changed the eval-mode output by {change:.1e} of its largest value, more than '
                f'tolerance={tolerance:g}, so it was undone. Either the model uses its batch-norm tensors in another '
                'way than batch norm does, or it computes in low precision: then raise the tolerance.')
    except BaseException:
        write(layers, source)
        raise
    left = {name: reason for name, layer in found.items() if (reason := why_not_convertible(layer))}
    return ConversionReport(modules, statistics, source, left, change)


def convertible_layers(
    found: Mapping[str, BatchNorm], modules: Sequence[str], allow_untrained: bool = False,
) -> dict[str, BatchNorm]:
    """Return those of the layers that can be converted; ``modules`` is where they were found, for messages.

    Raises:
        ValueError: None can be converted, or some were never trained: they have mean 0 and variance 1.
    """
    layers = {name: layer for name, layer in found.items() if why_not_convertible(layer) is None}
    if not layers:
        name, layer = next(iter(found.items()))
        raise ValueError(f'modules={modules!r}: none of the {len(found)} batch-norm layers can be converted. '
                         f'{name!r}, for instance: {why_not_convertible(layer)}. Fine-tune without the conversion.')
    untrained = [name for name, layer in layers.items()
                 if (layer.running_mean == 0).all() and (layer.running_var == 1).all()]
    if untrained and not allow_untrained:
        raise ValueError(
            f'{len(untrained)} of {len(layers)} batch-norm layers have the statistics of an untrained layer (mean 0, '
            f'variance 1), for instance {untrained[0]!r}: pre-trained weights are missing or did not match. Check '
            'where the weights come from (in a config init_cfg or load_from), and the log for "unexpected key" and '
            '"missing keys". allow_untrained=True converts all the same.')
    return layers


def _refuse_unreached(statistics: Mapping[str, LayerStatistics]) -> None:
    unreached = [name for name, layer in statistics.items() if layer.num_batches == 0]
    if len(unreached) == len(statistics):
        raise ValueError('The target data hold no mini-batch that reached a batch-norm layer: check the data, and that '
                         '`forward` runs the model.')
    if unreached:
        raise ValueError(
            f'{len(unreached)} of {len(statistics)} batch-norm layers were never reached by the forward pass, for '
            f'instance {unreached[0]!r}, so their target statistics are unknown. Name in `modules` only the submodules '
            'in use.')


def _inputs(batch: Any, model: nn.Module) -> Tensor:
    images = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(images, Tensor):
        raise ValueError(f'A mini-batch is a {type(batch).__name__}, not a tensor or a tuple that begins with one: '
                         'pass forward=lambda batch: model(...).')
    return images.to(next(model.parameters()).device)


def _eval_outputs(model: nn.Module, outputs: Callable[[Any], Any], first: list[Any]) -> list[Tensor]:
    with eval_mode(model), torch.no_grad(), without_tf32():
        return [tensor.clone() for batch in first for tensor in _tensors(outputs(batch))]


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (Mapping, list, tuple)):
        for part in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from _tensors(part)


def _largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    changes = [float((new - old).abs().max() / old.abs().max().clamp(min=torch.finfo(old.dtype).tiny))
               for old, new in zip(before, after, strict=True)]
    return max(changes, key=lambda change: (change != change, change), default=0.0)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute convolutions and matrix products in full float32 on GPUs that would round to TF32."""
    if hasattr(torch.backends.cudnn, 'conv'):  # torch >= 2.9, which refuses to mix it with the older switch
        switches, name, off = (torch.backends.cudnn.conv, torch.backends.cuda.matmul), 'fp32_precision', 'ieee'
    else:
        switches, name, off = (torch.backends.cudnn, torch.backends.cuda.matmul), 'allow_tf32', False
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, off)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
