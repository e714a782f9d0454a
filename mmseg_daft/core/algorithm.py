"""Algorithm 1 of Domain-Aware Fine-Tuning (Ha, Jeong, Lee, AAAI 2024) for any PyTorch model, with all guards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmseg_daft.core.arguments import part_to_convert
from mmseg_daft.core.batch_norm import BatchNorm, eval_mode, find_batch_norms, why_not_convertible
from mmseg_daft.core.compiled import uncompiled
from mmseg_daft.core.conversion import LayerTensors, convert, tensors_of, write
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics

if TYPE_CHECKING:
    from mmseg_daft.core.ranks import Ranks
    from mmseg_daft.core.stop_rule import StopRule
    from mmseg_daft.core.variant import ConversionVariant


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        modules: Where it looked for layers.
        statistics: The target statistics of each converted layer, by name.
        source: What the converted layers held before, by name.
        left: Why a layer was left as it is, by name.
        output_change: The largest change of the eval-mode output on a mini-batch, relative to the largest output.
    """

    modules: tuple[str, ...]
    statistics: Mapping[str, LayerStatistics]
    source: Mapping[str, LayerTensors]
    left: Mapping[str, str]
    output_change: float

    def summary(self) -> str:
        """Return one line for the log."""
        converted, left = len(self.source), len(self.left)
        return (f'BN conversion of {", ".join(self.modules) or "the model"}: {converted + left} layers found, '
                f'{converted} converted, {left} left as they are; eval-mode output changed by {self.output_change:.1e}')

    def undo(self, model: nn.Module) -> None:
        """Give the model its layers' tensors back."""
        write({name: model.get_submodule(name) for name in self.source}, self.source)


def convert_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    modules: str | Sequence[str] = '',
    forward: Callable[[Any], Any] | None = None,
    *,
    outputs: Callable[[Any], Any] | None = None,
    tolerance: float = 1e-4,
    allow_untrained: bool = False,
    variant: ConversionVariant | None = None,
    statistics: Mapping[str, LayerStatistics] | None = None,
    stop: StopRule | None = None,
    ranks: Ranks | None = None,
) -> ConversionReport:
    """Convert a pre-trained model's batch norm to a target domain, in place, or leave the model as it was and raise.

    Args:
        model: The model, without a distributed wrapper.
        batches: The target's training data in mini-batches, each image once.
        modules: The submodules to convert the batch norm of, by default the whole model.
        forward: Runs the model on a mini-batch, at least up to the last of the layers. By default the model is called
            with the mini-batch or, if that is a tuple or list, with its first element, on the model's device.
        outputs: Returns what must not change, tensors in any nesting; ``forward`` by default.
        tolerance: The largest relative change of the outputs that passes as float noise.
        allow_untrained: Convert layers that have the statistics of a new layer, too.
        variant: For ablations; the paper's conversion by default.
        statistics: Known statistics, by layer; the pass is skipped and one mini-batch is read for the check.
        stop: When the pass may end early.
        ranks: The ranks that share the pass, if there are several; all have to call this function.

    Raises:
        ValueError: A submodule is misspelt or has no batch norm, a layer cannot be converted, was never trained or
            never reached, layers share a tensor, there are no data, or they or the weights hold NaN.
        RuntimeError: The outputs changed, or another rank failed.
    """
    model = uncompiled(model)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(f'The model is wrapped by {type(model).__name__}: pass model.module.')
    modules = (modules,) if isinstance(modules, str) else tuple(modules)
    forward = forward or (lambda batch: model(_inputs(batch, model)))
    together = ranks.together if ranks else lambda make: make()
    found = find_batch_norms(model, modules)
    layers = together(lambda: _convertible_layers(model, found, allow_untrained))
    sample: list[Any] = []

    def run(batch: Any) -> Any:
        if not sample:
            sample.append(batch)
        return forward(batch)

    def eval_outputs() -> list[Tensor]:
        with eval_mode(model), torch.no_grad(), _without_tf32():
            tensors = [tensor.clone() for batch in sample for tensor in _tensors((outputs or forward)(batch))]
        if sample and not tensors:
            raise ValueError('`forward` returned no floating-point tensor, so the conversion cannot be checked: return '
                             "the model's output, or pass outputs=lambda batch: ...")
        return tensors

    if statistics is None:
        statistics = collect_statistics(model, layers, batches, run, not (variant is None or variant.compensate), stop,
                                        ranks)
        _refuse_unreached(statistics)
    else:
        sample += together(lambda: list(islice(batches, 1)))
    if not (ranks.largest(len(sample)) if ranks else sample):
        raise ValueError('There is no mini-batch to check the outputs on.')
    before = together(eval_outputs)
    source = convert(layers, statistics, variant)
    try:
        change = _largest_change(before, together(eval_outputs))
        change = ranks.largest(change) if ranks else change
        if (variant is None or variant.compensate) and not change <= tolerance:  # true for NaN as well
            write(layers, source)
            noise = _largest_change(before, eval_outputs())
            raise RuntimeError(
                f'The conversion changed the eval-mode output by {change:.1e} of its largest value, more than '
                f'tolerance={tolerance:g}, so it was undone. ' + (
                    'The output also differs without any conversion: `forward` is random, or changes the mini-batch.'
                    if noise > tolerance else 'Either the model uses its batch-norm tensors in another way than batch '
                    'norm does, or it computes in low precision: then raise the tolerance, for instance to 1e-2.'))
    except BaseException:
        write(layers, source)
        raise
    left = {name: reason for name, layer in found.items() if (reason := why_not_convertible(layer))}
    return ConversionReport(modules, statistics, source, left, change)


def is_untrained(layer: BatchNorm) -> bool:
    """Return whether a layer has the running statistics of a new one: mean 0, variance 1."""
    return layer.running_mean is not None and bool((layer.running_mean == 0).all() and (layer.running_var == 1).all())


def _convertible_layers(
    model: nn.Module, found: Mapping[str, BatchNorm], allow_untrained: bool,
) -> dict[str, BatchNorm]:
    layers = {name: layer for name, layer in found.items() if why_not_convertible(layer) is None}
    if not layers:
        name, layer = next(iter(found.items()))
        raise ValueError(f'None of the {len(found)} batch-norm layers can be converted. {name!r}, for instance: '
                         f'{why_not_convertible(layer)}. Fine-tune without the conversion.')
    untrained = [name for name, layer in layers.items() if is_untrained(layer)]
    if untrained and not allow_untrained:
        part = part_to_convert([name for name in layers if name not in untrained], untrained)
        raise ValueError(
            f'{len(untrained)} of {len(layers)} batch-norm layers have the statistics of an untrained layer (mean 0, '
            f'variance 1), for instance {untrained[0]!r}: pre-trained weights are missing or did not match. Check '
            'where the weights come from (in a config init_cfg or load_from), and the log for "unexpected key" and '
            f'"missing keys". allow_untrained=True converts them anyway.{part and " "}{part}')
    others = {id(tensor): name for name, layer in find_batch_norms(model, '').items() if name not in layers
              for tensor in tensors_of(layer) if tensor is not None}
    for name, layer in layers.items():
        for tensor in tensors_of(layer):
            if id(tensor) in others:
                raise ValueError(f'Batch-norm layers {name!r} and {others[id(tensor)]!r} share a tensor, and the '
                                 'second is not converted. Name both in `modules`, or neither.')
    return layers


def _refuse_unreached(statistics: Mapping[str, LayerStatistics]) -> None:
    unreached = [name for name, layer in statistics.items() if layer.num_batches == 0]
    if len(unreached) == len(statistics):
        raise ValueError('No mini-batch reached a batch-norm layer: there are no data (or an iterator that was used '
                         'up), or `forward` does not run the model (with torch < 2.6, no compiled one).')
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
    weight = next(model.parameters())
    return images.to(weight.device, weight.dtype if images.is_floating_point() else None)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point() and outputs.numel():
            yield outputs
    elif isinstance(outputs, (Mapping, list, tuple)):
        for part in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from _tensors(part)


def _largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float('inf')
    changes = [float((new - old).abs().max() / old.abs().max().clamp(min=torch.finfo(old.dtype).tiny))
               for old, new in zip(before, after, strict=True)]
    return max(changes, key=lambda change: (change != change, change), default=0.0)  # NaN is the largest


@contextmanager
def _without_tf32() -> Iterator[None]:
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
