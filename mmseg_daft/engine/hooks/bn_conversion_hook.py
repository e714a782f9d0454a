"""An MMEngine hook that converts batch-norm layers to the target domain before training starts."""

from collections.abc import Sequence

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.arguments import FLAG, NAMES, POSITIVE, TEXT, optional, refuse_second, takes, whole
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.core.variant import VARIANT, ConversionVariant
from mmseg_daft.engine.checkpoints import is_training, settle_start
from mmseg_daft.engine.convert_model import CONVERTED, RECORD, ConversionSettings, convert_model, state_of
from mmseg_daft.engine.training_data import training_precision


@HOOKS.register_module()
@takes(modules=NAMES, num_batches=optional(whole(1)), tolerance=POSITIVE, allow_untrained=FLAG, **VARIANT,
       statistics=optional(TEXT), stop_error=optional(POSITIVE), min_batches=whole(2), cache_dir=optional(TEXT))
class BNConversionHook(Hook):
    """Convert batch-norm layers to the target domain before the first training iteration.

    Algorithm 1 of Domain-Aware Fine-Tuning (Ha, Jeong, Lee, AAAI 2024): one pass of the target training data through
    the training pipeline, with the pre-trained model in eval mode (the paper's test mode); then γ, β and the running
    statistics are replaced such that the eval-mode function stays the same. In a config::

        custom_hooks = [dict(type='BNConversionHook')]

    The training that follows sees the data order, the augmentations and the random numbers that it would see without
    the hook. A resumed run is not converted again.

    Args:
        modules: The submodules whose batch-norm layers are converted; for some stages alone
            ``('backbone.layer3', 'backbone.layer4')``.
        num_batches: How many mini-batches of the training loader's batch size to take, counted over all ranks
            (SyncBatchNorm joins those of one round); ``None`` for the whole training set, as in the paper.
        tolerance: The largest relative change of the eval-mode output that passes as float noise.
        allow_untrained: Convert layers whose statistics are those of an untrained layer, too.
        mean, var, blend, compensate: For ablations, see ``ConversionVariant``; ``compensate=False`` is adaptive batch
            norm (AdaBN), which changes the eval-mode output.
        statistics: A file of target statistics: written if it is not there, else used in place of the pass, by runs
            that differ in their rates alone. ``{seed}`` in its name stands for the seed, ``{pass}`` for a hash of all.
        stop_error, min_batches: End the pass early, after ``min_batches`` at least, once the standard error of every
            layer's statistics is below this share of their scale (``StopRule``): 0.01 for one per cent. The cost then
            does not grow with the data set. ``None`` for the whole pass, as in the paper.
        cache_dir: Without effect since 0.2; configs that sweeps froze before name it.

    Raises:
        ValueError: At once: an argument makes no sense, or, in ``before_run``, there are two such hooks. In
            ``before_train``, with the model as it was: as ``convert_batch_norm``, or the file of statistics is of
            another pass.
        RuntimeError: As ``convert_batch_norm``, or the run is resumed but was never converted.
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
        statistics: str | None = None,
        stop_error: float | None = None,
        min_batches: int = 16,
        cache_dir: str | None = None,
    ) -> None:
        self.settings = ConversionSettings(
            (modules,) if isinstance(modules, str) else tuple(modules), num_batches, tolerance, allow_untrained,
            ConversionVariant(mean, var, blend, compensate),
            None if stop_error is None else StopRule(stop_error, min_batches), statistics)

    def before_run(self, runner: Runner) -> None:
        """Make sure, before MMEngine loads anything, that ``load_from`` is where the run starts from."""
        refuse_second(self, runner.hooks, 'the second would convert it again: keep one, and list all modules in it.')
        if is_training(runner) and runner.cfg.get('efficient_conv_bn_eval'):
            raise ValueError('efficient_conv_bn_eval computes batch norm within the convolution before it, where its '
                             'input cannot be observed. Leave it out.')
        settle_start(runner)

    def before_train(self, runner: Runner) -> None:
        """Convert, unless the run was resumed."""
        if runner.iter > 0:
            return self._check_resumed(runner)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        broadcast_object_list(seed := [runner.seed or 0])  # with diff_rank_seed=True every rank has its own
        record = convert_model(
            model, runner.train_dataloader, self.settings, seed[0], runner.cfg, lambda: training_precision(runner))
        runner.message_hub.update_info(RECORD, record.as_dict())
        runner.message_hub.update_info(CONVERTED, state_of(model, record.shifts))
        runner.logger.info(record.summary())

    def _check_resumed(self, runner: Runner) -> None:
        record = runner.message_hub.get_info(RECORD)
        if record is None:
            raise RuntimeError(
                f'This run is resumed at iteration {runner.iter} from {runner._load_from or "its last checkpoint"}, '
                'which was never converted, so it would not be domain-aware fine-tuning. Start a new run in another '
                'work_dir (load_from takes weights alone), or leave BNConversionHook out to go on as it was.')
        runner.logger.info(f'BN conversion: done before this run was resumed ({record["num_images"]} images of '
                           f'{record["dataset"]}); nothing to do.')
