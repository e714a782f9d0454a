"""The pass over the target training data: what the hook, the offline tools and the statistics file share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from mmengine.dist import get_dist_info, is_main_process
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm, has_initial_statistics, why_not_convertible
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics
from mmseg_daft.engine.model_forward import ModelForward
from mmseg_daft.engine.target_loader import TargetLoader


@dataclass(frozen=True)
class PassSettings:
    """What decides, beside the model and the data, which statistics a pass finds.

    Attributes:
        seed: Of shuffling and augmentation; the same on all ranks.
        num_batches: Mini-batches over all ranks; ``None`` for the whole training set.
        by_batch: Layers normalise by mini-batch, as AdaBN needs it (see ``collect_statistics``).
    """

    seed: int = 0
    num_batches: int | None = None
    by_batch: bool = False


@dataclass(frozen=True)
class PassResult:
    """What a pass found.

    Attributes:
        statistics: The target statistics of each layer, by name.
        sample: This rank's first mini-batch, prepared; ``None`` where it has none.
        num_batches: Mini-batches that the statistics are means of; those of all ranks in a round are one to
            SyncBatchNorm.
        num_images: Images in them.
    """

    statistics: dict[str, LayerStatistics]
    sample: Any
    num_batches: int
    num_images: int


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
    """
    rank, world_size = get_dist_info()
    loader = TargetLoader(dataloader, settings.seed, settings.num_batches, rank, world_size)
    statistics, sample = _collect(forward, loader, layers, settings.by_batch, precision)
    _refuse_unreached(statistics)
    num_batches = len(loader) if _over_ranks(layers, world_size) else loader.num_batches
    return PassResult(statistics, sample, num_batches, loader.num_images)


def first_batch(forward: ModelForward, dataloader: DataLoader, settings: PassSettings) -> Any:
    """Return this rank's first mini-batch of a pass, prepared; ``None`` where it has none."""
    rank, world_size = get_dist_info()
    in_all = -(-len(dataloader.dataset) // (dataloader.batch_size or dataloader.batch_sampler.batch_size))
    one_each = min(world_size, settings.num_batches or in_all, in_all)
    loader = TargetLoader(dataloader, settings.seed, one_each, rank, world_size)
    batch = next(iter(loader))
    return None if batch is None else forward.prepare(batch)


def _collect(
    forward: ModelForward, loader: TargetLoader, layers: dict[str, BatchNorm], by_batch: bool,
    precision: Callable[[], AbstractContextManager[Any]],
) -> tuple[dict[str, LayerStatistics], Any]:
    """Run the pass; return the statistics, and this rank's first mini-batch for the check."""
    sample: list[Any] = []

    def run(batch: Any) -> None:
        data = forward.prepare(batch)
        sample[:] = sample or [data]
        with precision():
            forward.train_path(data)

    progress = track(loader, 'BN conversion', total=len(loader), transient=True, disable=not is_main_process())
    statistics = collect_statistics(forward.model, layers, progress, run, by_batch=by_batch)
    return statistics, sample[0] if sample else None


def _refuse_unreached(statistics: dict[str, LayerStatistics]) -> None:
    unreached = [name for name, layer in statistics.items() if layer.num_batches == 0]
    if unreached:
        raise ValueError(
            f'{len(unreached)} of {len(statistics)} batch-norm layers were never reached by the forward pass, for '
            f'instance {unreached[0]!r}, so their target statistics are unknown. Leave them out: name in `modules` '
            'only the submodules in use.')


def _over_ranks(layers: dict[str, BatchNorm], world_size: int) -> bool:
    """Whether a mini-batch, to these layers, is that of all ranks together."""
    return world_size > 1 and any(isinstance(layer, nn.SyncBatchNorm) for layer in layers.values())
