"""The pass over the target training data: what the hook, the offline tools and the statistics file share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

from mmengine.dist import get_comm_device, get_world_size, is_main_process
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm, has_initial_statistics, why_not_convertible
from mmseg_daft.core.rank_exchange import together
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics
from mmseg_daft.core.stopping import StopRule
from mmseg_daft.engine.model_forward import ModelForward
from mmseg_daft.engine.target_loader import TargetLoader, target_loader


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
