"""An MMEngine hook that averages the weights along a training, with statistics that fit the average."""

from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.arguments import number, optional, takes, whole
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.engine.reestimation import reestimate_statistics
from mmseg_daft.engine.training_data import training_precision


@HOOKS.register_module()
@takes(begin=number(lambda share: 0 <= share < 1, 'a number from 0, below 1'),
       momentum=optional(number(lambda share: 0 < share < 1, 'a number between 0 and 1')),
       num_batches=optional(whole(1)))
class WeightAveragingHook(EMAHook):
    """Evaluate and save the mean of the weights along the training (SWA; Izmailov et al., UAI 2018).

    MMEngine's ``EMAHook`` does the averaging, but gives the mean the running statistics of the last iterate, or the
    mean of the iterates', neither of which is what the mean's features have. This hook re-estimates them from the
    training data, before each validation and each checkpoint (``reestimate_statistics``); layers that training had in
    eval mode keep theirs. In a config::

        custom_hooks = [dict(type='WeightAveragingHook', begin=0.5)]

    The training itself computes what it would compute without this hook, and a checkpoint holds both models: the mean
    as ``state_dict``, for testing; the other for resuming. A checkpoint that a signal asked for is for resuming alone.

    Args:
        begin: The share of the training after which weights count; until then, the mean is the last iterate.
        momentum: The share of each new iterate in a moving average; ``None`` for the mean of all.
        num_batches: How many mini-batches of the training data each pass takes; ``None`` for all.

    Raises:
        ValueError: At once: an argument makes no sense. When a mean is due: as ``reestimate_statistics``.
    """

    def __init__(self, begin: float = 0.0, momentum: float | None = None, num_batches: int | None = None) -> None:
        kind = dict(ema_type='StochasticWeightAverage') if momentum is None else dict(momentum=momentum)
        super().__init__(update_buffers=True, **kind)
        self.begin, self.num_batches = begin, num_batches
        self.outdated = False  # the mean's statistics; also where nothing is trained

    def before_train(self, runner: Runner) -> None:
        """Find from which iteration on weights count."""
        self.begin_iter = int(self.begin * runner.max_iters) + 1
        self.layers: list[str] | None = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None,
    ) -> None:
        """Take the iterate into the mean."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self.outdated = True
        if self.layers is None:  # batch norm in train mode, as hooks have set it by now
            self.layers = [name for name, layer in self.src_model.named_modules()
                           if isinstance(layer, BatchNorm) and layer.training]
        if any(not hook.by_epoch and self.every_n_train_iters(runner, hook.interval, hook.save_begin)
               for hook in _savers(runner)) or self.is_last_train_iter(runner):
            self._reestimate(runner)

    def after_train_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Make the mean whole for a checkpoint of the epoch."""
        if any(hook.by_epoch and self.every_n_epochs(runner, hook.interval, hook.save_begin)
               for hook in _savers(runner)):
            self._reestimate(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Let the mean be what is validated."""
        self._reestimate(runner)
        super().before_val_epoch(runner)

    def _reestimate(self, runner: Runner) -> None:
        """Re-estimate the mean's statistics, on all ranks: a checkpoint is written by the first alone."""
        if not self.outdated:
            return
        model = self.ema_model.module
        broadcast_object_list(seed := [runner.seed or 0])
        reestimate_statistics(model, {name: model.get_submodule(name) for name in self.layers}, runner.train_dataloader,
                              seed[0], self.num_batches, lambda: training_precision(runner))
        self.outdated = False


def _savers(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
