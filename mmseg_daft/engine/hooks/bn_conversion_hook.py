"""An MMEngine hook that converts batch-norm layers to the target domain before training starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.batch_norm import find_batch_norms, why_not_convertible
from mmseg_daft.core.conversion import ConversionVariant, state_of
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.core.shift import domain_shift
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.engine.checkpoints import settle_start
from mmseg_daft.engine.convert_model import (
    ConversionReport,
    PassSettings,
    checked_conversion,
    convertible_layers,
    describe_dataset,
    run_pass,
)
from mmseg_daft.engine.statistics_file import cached_pass
from mmseg_daft.engine.training_data import ModelForward

RECORD = 'bn_conversion'
"""Where a checkpoint keeps the conversion's record: ``checkpoint['message_hub']['runtime_info'][RECORD]``."""

CONVERTED = 'bn_conversion_tensors'
"""Beside it, by their names in the state dict: the converted layers' tensors as training began with them, which its
changes are measured from (Eq. 6)."""


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
        cache_dir: A folder in which statistics are kept and found again, by the runs of a sweep for instance
            that differ in their learning rates; with them the conversion is the same to the bit. They have to share
            a seed (``randomness=dict(seed=0)``): without, MMEngine draws another for each run.
        stop_error: End the pass early, once the standard error of every layer's statistics is below this share of
            their scale (``StopRule``): 0.01 for one per cent. The cost then no longer grows with the data set.
            ``None`` for the whole pass, as the paper does.
        min_batches: How many mini-batches such a pass takes at least.

    Raises:
        ValueError: At once: the ablation's or the stop rule's arguments make no sense. In ``before_train``, with the
            model as it was: the scope is misspelt or holds no layer that can be converted, a layer was
            never trained or never reached, the data are empty or too few, or they or the weights hold NaN.
        RuntimeError: Likewise, where the test-mode output changed, a run is resumed that was never
            converted, or another rank failed.
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
        cache_dir: str | None = None,
        stop_error: float | None = None,
        min_batches: int = 16,
    ) -> None:
        self.modules = (modules,) if isinstance(modules, str) else tuple(modules)
        self.num_batches = num_batches
        self.tolerance = tolerance
        self.allow_untrained = allow_untrained
        self.cache_dir = cache_dir
        self.variant = ConversionVariant(mean, var, blend, compensate)
        self.stop = None if stop_error is None else StopRule(stop_error, min_batches)

    def before_run(self, runner: Runner) -> None:
        """See to it, before MMEngine loads anything, that ``load_from`` is where the run starts from."""
        settle_start(runner)

    def before_train(self, runner: Runner) -> None:
        """Convert, unless the run was resumed."""
        if runner.iter > 0:
            self._check_resumed(runner)
            return
        start = time.perf_counter()
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        found = find_batch_norms(model, self.modules)
        layers = convertible_layers(found, self.modules, self.allow_untrained)
        forward = ModelForward(model, found)
        seed = [runner.seed or 0]
        broadcast_object_list(seed)  # with diff_rank_seed=True every rank has its own
        settings = PassSettings(seed[0], self.num_batches, by_batch=not self.variant.compensate, stop=self.stop)
        dataset = describe_dataset(runner.train_dataloader.dataset)
        with preserved_random_state():
            make_pass = partial(cached_pass, Path(self.cache_dir), runner.logger) if self.cache_dir else run_pass
            result = make_pass(forward, layers, runner.train_dataloader, settings, lambda: _precision_of(runner))
            shifts = {name: domain_shift(layers[name], result.statistics[name]) for name in layers}
            change = checked_conversion(
                layers, result.statistics, self.variant, forward, result.sample, self.tolerance)
        report = ConversionReport(
            modules=self.modules,
            variant=self.variant,
            dataset=dataset,
            **result.facts(),
            seed=settings.seed,
            seconds=time.perf_counter() - start,
            output_change=change,
            shifts=shifts,
            left={name: why_not_convertible(layer) for name, layer in found.items() if name not in layers})
        runner.message_hub.update_info(RECORD, report.record())
        runner.message_hub.update_info(CONVERTED, state_of(layers))
        runner.logger.info(report.summary(self.tolerance if self.variant.compensate else None))

    def _check_resumed(self, runner: Runner) -> None:
        record = runner.message_hub.get_info(RECORD)
        if record is None:
            raise RuntimeError(
                f'This run is resumed at iteration {runner.iter} from {runner._load_from or "its last checkpoint"}, '
                'which was never converted, so it would not be domain-aware fine-tuning. Start it anew in another '
                'work_dir (load_from takes weights alone), or leave BNConversionHook out to go on as it was.')
        runner.logger.info(
            f'BN conversion: done before this run was resumed ({record["num_images"]} images of '
            f'{record["dataset"]}); nothing to do.')


def _precision_of(runner: Runner) -> Any:
    """The autocast context of the training, if any: batch norm should see what it will see there."""
    wrapper = runner.optim_wrapper
    return wrapper.optim_context(runner.model) if isinstance(wrapper, OptimWrapper) else nullcontext()
