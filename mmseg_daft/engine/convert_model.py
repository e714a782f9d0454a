"""The pass over the target training data: what the hook, the offline tools and the statistics file share.

How much a conversion changed what a model computes: float noise, or it went wrong.

A conversion that is undone and raises where it changed what the model computes.

What a conversion did: for the log in five lines, and for the checkpoint as plain data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from math import exp
from statistics import fmean
from typing import Any

import torch
from mmengine.dist import all_reduce, get_comm_device, get_world_size, is_main_process
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm, eval_mode, has_initial_statistics, why_not_convertible, without_tf32
from mmseg_daft.core.conversion import ConversionVariant, convert, write
from mmseg_daft.core.ranks import together
from mmseg_daft.core.shift import DomainShift
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.engine.training_data import ModelForward, TargetLoader, target_loader


@dataclass(frozen=True)
class PassSettings:
    """What decides, beside the model and the data, which statistics a pass finds.

    Attributes:
        seed: Of shuffling and augmentation; the same on all ranks.
        num_batches: Mini-batches over all ranks; ``None`` for the whole training set.
        by_batch: Layers normalise by mini-batch, as AdaBN needs it (see ``collect_statistics``).
        stop: When the pass may end early; ``None`` for never.
    """

    seed: int = 0
    num_batches: int | None = None
    by_batch: bool = False
    stop: StopRule | None = None


@dataclass(frozen=True)
class PassResult:
    """What a pass found.

    Attributes:
        statistics: The target statistics of each layer, by name.
        sample: This rank's first mini-batch, prepared; ``None`` where it has none.
        num_batches: Mini-batches that the statistics are means of; those of all ranks in a round are one to
            SyncBatchNorm.
        all_batches: Mini-batches of the whole pass, from which an early stop keeps some.
        num_images: Images in those taken.
        seconds: Wall time of the pass; ``None`` where none was made, as its result was in a file.
        waited: Seconds of it in which this process had nothing to do until the next mini-batch was loaded.
    """

    statistics: dict[str, LayerStatistics]
    sample: Any
    num_batches: int
    all_batches: int
    num_images: int
    seconds: float | None = None
    waited: float = 0.0

    def facts(self) -> dict[str, Any]:
        """Return what a ``ConversionReport`` tells of the pass."""
        return dict(num_batches=self.num_batches, all_batches=self.all_batches, num_images=self.num_images,
                    pass_seconds=self.seconds, waited=self.waited)


def convertible_layers(
    found: Mapping[str, BatchNorm], modules: tuple[str, ...], allow_untrained: bool = False,
) -> dict[str, BatchNorm]:
    """Return those of the layers that can be converted.

    Args:
        found: Batch-norm layers, by name.
        modules: The scope in which they were found, for messages.
        allow_untrained: Let layers pass whose statistics are those of an untrained layer.

    Raises:
        ValueError: None can be converted, or some were never trained.
    """
    reasons = {name: why_not_convertible(layer) for name, layer in found.items()}
    layers = {name: layer for name, layer in found.items() if reasons[name] is None}
    if not layers:
        name, reason = next(iter(reasons.items()))
        raise ValueError(f'modules={modules!r}: none of the {len(found)} batch-norm layers can be converted. '
                         f'Of {name!r}, for instance: {reason}. Fine-tune without the conversion.')
    untrained = [name for name, layer in layers.items() if has_initial_statistics(layer)]
    if untrained and not allow_untrained:
        raise ValueError(
            f'{len(untrained)} of {len(layers)} batch-norm layers have the statistics of an untrained layer (mean '
            f'0, variance 1), for instance {untrained[0]!r}: pre-trained weights are missing or did not match. '
            "Check model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...) or load_from, "
            'and look above for "unexpected key" and "missing keys". allow_untrained=True converts all the same.')
    return layers


def run_pass(
    forward: ModelForward,
    layers: dict[str, BatchNorm],
    dataloader: DataLoader,
    settings: PassSettings,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> PassResult:
    """Collect the target statistics of some layers over the training data, each image once.

    With an initialised process group every rank has to call this. The caller preserves the random state.

    Args:
        forward: The model, as far as it has to run.
        layers: The layers to observe.
        dataloader: The training loader, which stays untouched.
        settings: What else decides the result.
        precision: Makes the autocast context of a mini-batch.

    Raises:
        ValueError: The data are empty or too few, hold NaN, or never reach a layer.
        RuntimeError: Another rank failed.
    """
    start = time.perf_counter()
    loader = target_loader(dataloader, settings.seed, settings.num_batches, get_comm_device())
    statistics, sample = _collect(forward, loader, layers, settings, precision)
    seconds = time.perf_counter() - start
    _refuse_unreached(statistics)
    joint = get_world_size() > 1 and any(isinstance(layer, nn.SyncBatchNorm) for layer in layers.values())
    taken, images = loader.taken()
    return PassResult(
        statistics, sample, loader.rounds if joint else taken, len(loader) if joint else loader.num_batches, images,
        seconds, loader.waited)


def first_batch(forward: ModelForward, dataloader: DataLoader, settings: PassSettings) -> Any:
    """Return this rank's first mini-batch of a pass, prepared; ``None`` where it has none."""
    in_all = -(-len(dataloader.dataset) // (dataloader.batch_size or dataloader.batch_sampler.batch_size))
    one_each = min(get_world_size(), settings.num_batches or in_all, in_all)
    loader = target_loader(dataloader, settings.seed, one_each, get_comm_device())

    def prepared() -> Any:
        batch = next(iter(loader), None)
        return None if batch is None else forward.prepare(batch)

    return together(prepared, get_comm_device())


def _collect(
    forward: ModelForward, loader: TargetLoader, layers: dict[str, BatchNorm], settings: PassSettings,
    precision: Callable[[], AbstractContextManager[Any]],
) -> tuple[dict[str, LayerStatistics], Any]:
    """Run the pass; return the statistics, and this rank's first mini-batch for the check."""
    sample: list[Any] = []

    def run(batch: Any) -> None:
        data = forward.prepare(batch)
        sample[:] = sample or [data]
        with precision():
            forward.train_path(data)

    bar = track(loader, 'BN conversion', total=len(loader), transient=True, disable=not is_main_process())
    with closing(bar) as progress:  # also where the pass ends early
        statistics = collect_statistics(
            forward.model, layers, progress, run, by_batch=settings.by_batch, stop=settings.stop)
    return statistics, sample[0] if sample else None


def _refuse_unreached(statistics: dict[str, LayerStatistics]) -> None:
    unreached = [name for name, layer in statistics.items() if layer.num_batches == 0]
    if unreached:
        raise ValueError(
            f'{len(unreached)} of {len(statistics)} batch-norm layers were never reached by the forward pass, for '
            f'instance {unreached[0]!r}, so their target statistics are unknown. Leave them out: name in `modules` '
            'only the submodules in use.')


def test_outputs(forward: ModelForward, data: Any) -> list[Tensor]:
    """Return the test-mode outputs in the weights' own precision, without autocast and TF32.

    Args:
        forward: The model.
        data: A prepared mini-batch; ``None`` on a rank that has none, for no outputs.
    """
    if data is None:
        return []
    with eval_mode(forward.model), torch.no_grad(), without_tf32():
        return [output.clone() for output in forward.outputs(data)]


test_outputs.__test__ = False  # pytest takes functions by their name


def largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest change of any output relative to its largest value, over all ranks."""
    largest = torch.zeros(1, dtype=torch.float64, device=get_comm_device())
    for old, new in zip(before, after, strict=True):
        scale = old.abs().max().clamp(min=torch.finfo(old.dtype).tiny)
        largest = torch.maximum(largest, ((new - old).abs().max() / scale).to(largest))
    all_reduce(largest, 'max')
    return float(largest)


def checked_conversion(
    layers: Mapping[str, BatchNorm],
    statistics: Mapping[str, LayerStatistics],
    variant: ConversionVariant,
    forward: ModelForward,
    sample: Any,
    tolerance: float,
) -> float:
    """Convert and return the change of the test-mode output; undo it and raise where that is no noise.

    Args:
        layers: The layers, by name.
        statistics: Their target statistics, by the same name.
        variant: What is replaced.
        forward: The model.
        sample: A prepared mini-batch to compare outputs on; ``None`` on a rank that has none.
        tolerance: The largest relative change that passes; nothing is held to it without compensation.

    Raises:
        ValueError: A layer cannot be converted.
        RuntimeError: The output changed by more.
    """
    before = test_outputs(forward, sample)
    source = convert(layers, statistics, variant)
    try:
        change = largest_change(before, test_outputs(forward, sample))
        if variant.compensate and not change <= tolerance:  # NaN is past it, too
            raise RuntimeError(
                f'The conversion changed the test-mode output by {change:.1e} of its largest value, past '
                f'the tolerance of {tolerance:g}, so it was undone. Either the model uses its batch-norm '
                'tensors in another way than batch norm does, or it computes in low precision: then raise '
                'BNConversionHook(tolerance=...).')
    except BaseException:
        write(layers, source)
        raise
    return change


@dataclass(frozen=True)
class ConversionReport:
    """The facts of one conversion.

    Attributes:
        modules: The scope that was asked for.
        variant: What was replaced in a layer.
        dataset: The training data: class, length and where it lies.
        num_batches: Mini-batches that the statistics are means of, all ranks together.
        all_batches: Mini-batches of the whole pass, from which an early stop keeps some.
        num_images: Images in those taken.
        seed: Of the pass's shuffling and augmentation.
        seconds: Wall time of the pass and the conversion.
        pass_seconds: Wall time of the pass; ``None`` where its statistics were in a file.
        waited: Seconds of it in which this process had nothing to do until the next mini-batch was loaded.
        output_change: The largest change of the test-mode output on a real mini-batch, relative to
            the largest output.
        shifts: How far the domain moved each converted layer, by name.
        left: Layers in scope that cannot be converted, with the reason.
    """

    modules: tuple[str, ...]
    variant: ConversionVariant
    dataset: str
    num_batches: int
    all_batches: int
    num_images: int
    seed: int
    seconds: float
    pass_seconds: float | None
    waited: float
    output_change: float
    shifts: Mapping[str, DomainShift]
    left: Mapping[str, str]

    def summary(self, tolerance: float | None) -> str:
        """Return the summary for the log.

        Args:
            tolerance: For the change of the output; ``None`` where it was meant to change.
        """
        farthest = max(self.shifts, key=lambda name: self.shifts[name].mean_shift)
        mean_shift = fmean(shift.mean_shift for shift in self.shifts.values())
        var_ratio = exp(fmean(shift.log_var_ratio for shift in self.shifts.values()))
        batches = str(self.num_batches) if self.num_batches == self.all_batches else (
            f'{self.num_batches} of {self.all_batches}')
        if self.pass_seconds is None:
            timing = 'no pass: its statistics were in a file'
        else:
            bottleneck = 'data loading, see num_workers' if 2 * self.waited > self.pass_seconds else 'computing'
            timing = (f'time of the pass: {self.waited:.1f} of {self.pass_seconds:.1f} s waiting for data; '
                      f'the bottleneck was {bottleneck}')
        variant = f' ({self.variant.differences})' if self.variant.differences else ''
        lines = [
            f'BN conversion of {", ".join(self.modules)}: {len(self.shifts) + len(self.left)} layers found, '
            f'{len(self.shifts)} converted{variant}, 0 never reached, {len(self.left)} left as they are',
            *(f'  left: {name}: {reason}' for name, reason in self.left.items()),
            f'  target data: {self.num_images} images in {batches} mini-batches of {self.dataset}, '
            f'{self.seconds:.1f} s',
            f'  {timing}',
            f'  test-mode output: changed by {self.output_change:.1e} of its largest value '
            f'({"as asked for" if tolerance is None else f"tolerance {tolerance:.0e}"})',
            f'  domain: means moved by {mean_shift:.2f} source standard deviations on average, most in {farthest} '
            f'({self.shifts[farthest].mean_shift:.2f}); variances by a factor of {var_ratio:.2f}']
        return '\n'.join(lines)

    def record(self) -> dict[str, Any]:
        """Return the report as plain numbers, strings, lists and dictionaries."""
        return dict(asdict(self), modules=list(self.modules), left=dict(self.left),
                    shifts={name: list(shift) for name, shift in self.shifts.items()})


def describe_dataset(dataset: Any) -> str:
    """Return the data set's class, length and place in a few words."""
    parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if parts != [None]:
        return f'{type(dataset).__name__}[{", ".join(map(describe_dataset, parts))}]'
    prefix = getattr(dataset, 'data_prefix', None)
    places = (getattr(dataset, 'ann_file', None), prefix.get('img_path') if isinstance(prefix, dict) else prefix,
              getattr(dataset, 'data_root', None))
    return f'{type(dataset).__name__}({len(dataset)} images, {next(filter(None, places), "place unknown")})'
