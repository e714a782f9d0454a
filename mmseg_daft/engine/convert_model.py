"""Convert an MMEngine model to the data of its training loader: what BNConversionHook and the commands call."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from math import exp
from statistics import fmean
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import BaseModel
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmseg_daft.core.algorithm import ConversionReport, convert_batch_norm
from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import LayerTensors, tensors_of
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.core.ranks import current_ranks
from mmseg_daft.core.shift import AverageShift, statistics_shift
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.core.variant import ConversionVariant
from mmseg_daft.engine.statistics_file import pass_identity, read_statistics, statistics_path, write_statistics
from mmseg_daft.engine.training_data import ModelForward, describe_dataset, target_loader

RECORD = 'bn_conversion'
"""Where a checkpoint keeps the conversion's record: ``checkpoint['message_hub']['runtime_info'][RECORD]``."""
CONVERTED = 'bn_conversion_tensors'
"""Beside it, the converted tensors as training began with them: its changes are measured from there (Eq. 6)."""


@dataclass(frozen=True)
class ConversionSettings:
    """What decides a conversion, beside model, data and seed; see ``BNConversionHook``."""

    modules: tuple[str, ...] = ('backbone',)
    num_batches: int | None = None
    tolerance: float = 1e-4
    allow_untrained: bool = False
    variant: ConversionVariant = field(default_factory=ConversionVariant)
    stop: StopRule | None = None
    statistics: str | None = None


@dataclass(frozen=True)
class ConversionRecord:
    """The facts of one conversion, for the log and the checkpoint.

    Attributes:
        settings: What was asked for.
        report: What was done.
        shifts: How far the domain moved each converted layer, by name.
        dataset: The training data: class, length and place.
        seed: Of the pass's shuffling and augmentation.
        num_images, num_batches, all_batches: What was taken, all ranks together, of how many mini-batches.
        seconds, pass_seconds: Wall time of all, and of the pass; ``None`` if its statistics were in a file.
        waited: Seconds of the pass in which this process waited for the next mini-batch to be loaded.
    """

    settings: ConversionSettings
    report: ConversionReport
    shifts: Mapping[str, AverageShift]
    dataset: str
    seed: int
    num_images: int
    num_batches: int
    all_batches: int
    seconds: float
    pass_seconds: float | None
    waited: float

    def summary(self) -> str:
        """Return some lines for the log."""
        farthest = max(self.shifts, key=lambda name: self.shifts[name].mean_shift)
        mean_shift = fmean(shift.mean_shift for shift in self.shifts.values())
        var_ratio = exp(fmean(shift.log_var_ratio for shift in self.shifts.values()))
        batches = ' of '.join(map(str, dict.fromkeys([self.num_batches, self.all_batches])))
        timing = 'no pass: its statistics were in a file' if self.pass_seconds is None else (
            f'time of the pass: {self.waited:.1f} of {self.pass_seconds:.1f} s waiting for data; the bottleneck was '
            f'{"data loading, see num_workers" if 2 * self.waited > self.pass_seconds else "computing"}')
        return '\n'.join([
            self.report.summary(),
            *(f'  left: {name}: {reason}' for name, reason in self.report.left.items()),
            *(f'  not the paper\'s conversion: {words}' for words in filter(None, [str(self.settings.variant)])),
            f'  target data: {self.num_images} images in {batches} mini-batches of {self.dataset}',
            f'  {self.seconds:.1f} s; {timing}',
            f'  domain: means moved by {mean_shift:.2f} source standard deviations on average, most in {farthest} '
            f'({self.shifts[farthest].mean_shift:.2f}); variances by a factor of {var_ratio:.2f}'])

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain numbers, strings, lists and dictionaries."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ('settings', 'report')}
        return dict(facts, modules=list(self.settings.modules), variant=asdict(self.settings.variant),
                    output_change=self.report.output_change, left=dict(self.report.left),
                    shifts={name: list(shift) for name, shift in self.shifts.items()})


def convert_model(
    model: BaseModel,
    dataloader: DataLoader,
    settings: ConversionSettings,
    seed: int,
    cfg: Config,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> ConversionRecord:
    """Convert a model's batch norm to the data of its training loader, in place (Algorithm 1).

    The loader and every random generator stay as they are. With several ranks all have to call this.

    Args:
        model: The pre-trained model, without a distributed wrapper.
        dataloader: The training loader.
        settings: What is converted, and how.
        seed: Of shuffling and augmentation, the same on all ranks.
        cfg: The config of both, which a file of statistics is checked against.
        precision: Makes the autocast context of the training: batch norm should see what it will see there.

    Raises:
        ValueError, RuntimeError: As ``convert_batch_norm``, or the file of statistics belongs to another pass.
    """
    start = time.perf_counter()
    layers = find_batch_norms(model, settings.modules)
    ranks = current_ranks(next(model.parameters()).device)
    forward = ModelForward(model, layers)

    def run(data: Any) -> Any:
        with precision():
            return forward.run(data)

    with preserved_random_state():
        loader = target_loader(dataloader, seed, settings.num_batches, ranks)
        joint = ranks is not None and any(isinstance(layer, nn.SyncBatchNorm) for layer in layers.values())
        if joint and not settings.variant.compensate and loader.num_batches % ranks.world_size:
            raise ValueError(f'compensate=False with SyncBatchNorm needs as many mini-batches on every rank, and '
                             f'{loader.num_batches} are no multiple of {ranks.world_size}. Set num_batches to one.')
        stored = None
        if settings.statistics:
            decided = dict(seed=seed, num_batches=settings.num_batches, stop=settings.stop,
                           by_batch=not settings.variant.compensate)
            identity = pass_identity(forward, layers, decided, cfg, loader.num_images, precision)
            file = statistics_path(settings.statistics, identity)
            stored = read_statistics(file, identity, ranks)
        if stored:
            loader = target_loader(dataloader, seed, min(loader.num_batches, ranks.world_size if ranks else 1), ranks)
        bar = track(loader, 'BN conversion', total=len(loader), transient=True, disable=not is_main_process())
        with closing(bar) as progress:
            report = convert_batch_norm(
                model, map(forward.prepare, progress), settings.modules, run, tolerance=settings.tolerance,
                outputs=partial(forward.run, mode='tensor'), allow_untrained=settings.allow_untrained,
                variant=settings.variant, statistics=stored and stored.statistics, stop=settings.stop, ranks=ranks)
    taken, images = loader.taken()
    facts = stored.facts if stored else dict(num_images=images, num_batches=loader.rounds if joint else taken,
                                             all_batches=len(loader) if joint else loader.num_batches)
    times = dict(pass_seconds=None, waited=0.0) if stored else dict(pass_seconds=loader.seconds, waited=loader.waited)
    if settings.statistics and not stored:
        write_statistics(file, report.statistics, facts, identity)
    shifts = {name: statistics_shift(
        source.running_mean, source.running_var, report.statistics[name].mean, report.statistics[name].var,
        layers[name].eps).average for name, source in report.source.items()}
    return ConversionRecord(
        settings, report, shifts, describe_dataset(dataloader.dataset), seed, **facts,
        seconds=time.perf_counter() - start, **times)


def state_of(model: nn.Module, layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies of the four tensors of each layer, on the CPU, by their names in the state dict."""
    return {f'{name}.{tensor}': value.detach().cpu().clone() for name in layers
            for tensor, value in zip(LayerTensors._fields, tensors_of(model.get_submodule(name)), strict=True)}
