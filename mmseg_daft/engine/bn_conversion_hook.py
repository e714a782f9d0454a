"""An MMEngine hook that converts batch-norm layers to the target domain before training starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from mmengine.dist import broadcast_object_list, get_dist_info, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.progress import track
from torch import nn

from mmseg_daft.core.batch_norm import BatchNorm, find_batch_norms, has_initial_statistics, why_not_convertible
from mmseg_daft.core.conversion import convert, write
from mmseg_daft.core.conversion_variant import ConversionVariant
from mmseg_daft.core.domain_shift import domain_shift
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics
from mmseg_daft.engine.conversion_report import ConversionReport, describe_dataset
from mmseg_daft.engine.model_forward import ModelForward
from mmseg_daft.engine.output_change import largest_change, test_outputs
from mmseg_daft.engine.target_loader import TargetLoader

RECORD = 'bn_conversion'
"""Where a checkpoint keeps the conversion's record: ``checkpoint['message_hub']['runtime_info'][RECORD]``."""


@HOOKS.register_module()
class BNConversionHook(Hook):
    """Convert batch-norm layers to the target domain before the first training iteration.

    Algorithm 1 of Domain-Aware Fine-Tuning (Ha, Jeong, Lee, AAAI 2024): one pass of the target
    training data through the training pipeline, with the pre-trained model in test mode; then γ, β
    and the running statistics are replaced such that the test-mode function stays the same. In a
    config::

        custom_hooks = [dict(type='BNConversionHook')]

    The training that follows sees the data order, the augmentations and the random numbers that it
    would see without the hook. A resumed run is not converted again. A model that is a converted
    one already (``load_from``) may be converted once more: that changes nothing that matters.

    Args:
        modules: The submodules whose batch-norm layers are converted; some stages alone by
            ``('backbone.layer3', 'backbone.layer4')``.
        num_batches: How many mini-batches of the training loader's batch size to take, counted over all
            ranks (SyncBatchNorm joins those of one round); ``None`` for the whole training set, as the
            paper does.
        tolerance: The largest relative change of the test-mode output that passes for float noise.
        allow_untrained: Convert also layers whose statistics are those of an untrained layer.
        mean: For ablations: convert the means; ``False`` for the variances alone.
        var: For ablations: convert the variances; ``False`` for the means alone.
        blend: For ablations: α, the target's share in the new statistics.
        compensate: For ablations: ``False`` replaces statistics without changing γ and β, as adaptive
            batch norm does (AdaBN); then the test-mode output changes, and the pass normalises by
            mini-batch, so that each layer's statistics fit the adapted layers before it.

    Raises:
        ValueError: At once: the ablation's arguments make no conversion. In ``before_train``, with the
            model as it was: the scope is misspelt or holds no layer that can be converted, a layer was
            never trained or never reached, the data are empty or too few, or they or the weights hold NaN.
        RuntimeError: Likewise, where the test-mode output changed, or a run is resumed that was never
            converted.
    """

    def __init__(
        self,
        modules: Sequence[str] = ('backbone',),
        num_batches: int | None = None,
        tolerance: float = 1e-4,
        allow_untrained: bool = False,
        mean: bool = True,
        var: bool = True,
        blend: float = 1.0,
        compensate: bool = True,
    ) -> None:
        self.modules = (modules,) if isinstance(modules, str) else tuple(modules)
        self.num_batches = num_batches
        self.tolerance = tolerance
        self.allow_untrained = allow_untrained
        self.variant = ConversionVariant(mean, var, blend, compensate)

    def before_train(self, runner: Runner) -> None:
        """Convert, unless the run was resumed."""
        if runner.iter > 0:
            self._check_resumed(runner)
            return
        start = time.perf_counter()
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        found = find_batch_norms(model, self.modules)
        layers = self._convertible(found)
        forward = ModelForward(model, found)
        rank, world_size = get_dist_info()
        seed = [runner.seed or 0]
        broadcast_object_list(seed)  # with diff_rank_seed=True every rank has its own
        dataset = describe_dataset(runner.train_dataloader.dataset)
        with preserved_random_state():
            loader = TargetLoader(runner.train_dataloader, seed[0], self.num_batches, rank, world_size)
            statistics, sample = self._collect(runner, loader, layers, forward)
            self._refuse_unreached(statistics)
            shifts = {name: domain_shift(layers[name], statistics[name]) for name in layers}
            change = self._convert(layers, statistics, forward, sample)
        report = ConversionReport(
            modules=self.modules,
            variant=self.variant,
            dataset=dataset,
            num_batches=len(loader) if _over_ranks(layers, world_size) else loader.num_batches,
            num_images=loader.num_images,
            seed=seed[0],
            seconds=time.perf_counter() - start,
            output_change=change,
            shifts=shifts,
            left={name: why_not_convertible(layer) for name, layer in found.items() if name not in layers})
        runner.message_hub.update_info(RECORD, report.record())
        runner.logger.info(report.summary(self.tolerance if self.variant.compensate else None))

    def _check_resumed(self, runner: Runner) -> None:
        record = runner.message_hub.get_info(RECORD)
        if record is None:
            raise RuntimeError(
                f'This run is resumed at iteration {runner.iter} from a checkpoint that was never converted, so '
                'it would not be domain-aware fine-tuning. Start it anew in another work_dir (load_from takes '
                'weights without resuming), or leave BNConversionHook out to go on as it was.')
        runner.logger.info(
            f'BN conversion: done before this run was resumed ({record["num_images"]} images of '
            f'{record["dataset"]}); nothing to do.')

    def _convertible(self, found: dict[str, BatchNorm]) -> dict[str, BatchNorm]:
        reasons = {name: why_not_convertible(layer) for name, layer in found.items()}
        layers = {name: layer for name, layer in found.items() if reasons[name] is None}
        if not layers:
            name, reason = next(iter(reasons.items()))
            raise ValueError(f'modules={self.modules!r}: none of the {len(found)} batch-norm layers can be converted. '
                             f'Of {name!r}, for instance: {reason}. Fine-tune without the conversion.')
        untrained = [name for name, layer in layers.items() if has_initial_statistics(layer)]
        if untrained and not self.allow_untrained:
            raise ValueError(
                f'{len(untrained)} of {len(layers)} batch-norm layers have the statistics of an untrained layer (mean '
                f'0, variance 1), for instance {untrained[0]!r}: pre-trained weights are missing or did not match. '
                "Check model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...) or load_from, "
                'and look above for "unexpected key" and "missing keys". allow_untrained=True converts all the same.')
        return layers

    def _collect(
        self, runner: Runner, loader: TargetLoader, layers: dict[str, BatchNorm], forward: ModelForward,
    ) -> tuple[dict[str, LayerStatistics], Any]:
        """Run the pass; return the statistics, and this rank's first mini-batch for the check."""
        sample: list[Any] = []

        def run(batch: Any) -> None:
            data = forward.prepare(batch)
            sample[:] = sample or [data]
            with _precision_of(runner):
                forward.train_path(data)

        progress = track(loader, 'BN conversion', total=len(loader), transient=True, disable=not is_main_process())
        statistics = collect_statistics(
            forward.model, layers, progress, run, by_batch=not self.variant.compensate)
        return statistics, sample[0] if sample else None

    def _refuse_unreached(self, statistics: dict[str, LayerStatistics]) -> None:
        unreached = [name for name, layer in statistics.items() if layer.num_batches == 0]
        if unreached:
            raise ValueError(
                f'{len(unreached)} of {len(statistics)} batch-norm layers were never reached by the forward pass, for '
                f'instance {unreached[0]!r}, so their target statistics are unknown. Leave them out: name only the '
                f'submodules in use, not modules={self.modules!r}. ')

    def _convert(
        self, layers: dict[str, BatchNorm], statistics: dict[str, LayerStatistics], forward: ModelForward, sample: Any,
    ) -> float:
        """Convert and return the change of the output; undo it and raise where that is no noise."""
        before = test_outputs(forward, sample)
        source = convert(layers, statistics, self.variant)
        try:
            change = largest_change(before, test_outputs(forward, sample))
            if self.variant.compensate and not change <= self.tolerance:  # NaN is past it, too
                raise RuntimeError(
                    f'The conversion changed the test-mode output by {change:.1e} of its largest value, past '
                    f'the tolerance of {self.tolerance:g}, so it was undone. Either the model uses its batch-norm '
                    'tensors in another way than batch norm does, or it computes in low precision: then raise '
                    'BNConversionHook(tolerance=...).')
        except BaseException:
            write(layers, source)
            raise
        return change


def _precision_of(runner: Runner) -> Any:
    """The autocast context of the training, if any: batch norm should see what it will see there."""
    wrapper = runner.optim_wrapper
    return wrapper.optim_context(runner.model) if isinstance(wrapper, OptimWrapper) else nullcontext()


def _over_ranks(layers: dict[str, BatchNorm], world_size: int) -> bool:
    """Whether a mini-batch, to these layers, is that of all ranks together."""
    return world_size > 1 and any(isinstance(layer, nn.SyncBatchNorm) for layer in layers.values())
