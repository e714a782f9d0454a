"""An MMEngine hook that makes up for the evaluation of the final model where a kill cut it off."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.arguments import takes
from mmseg_daft.engine.checkpoints import is_training


@HOOKS.register_module()
@takes()
class FinalEvaluationHook(Hook):
    """Evaluate the final model also in a run that was resumed at its last iteration.

    MMEngine writes the last checkpoint before it evaluates. A run that is killed in between is resumed with no
    iteration left, and ends without a result. In a config::

        default_hooks = dict(evaluation=dict(type='FinalEvaluationHook'))
    """

    def before_train(self, runner: Runner) -> None:
        """Note that nothing was evaluated by this process."""
        self._evaluated: int | None = None

    def after_val(self, runner: Runner) -> None:
        """Note for which iteration of a training there was an evaluation."""
        if is_training(runner):
            self._evaluated = runner.iter

    def after_train(self, runner: Runner) -> None:
        """Evaluate, if the training is at its end and its model was not."""
        if runner.val_loop is None or runner.iter < runner.max_iters or self._evaluated == runner.iter:
            return
        runner.logger.info(f'The final model, of iteration {runner.iter}, was not evaluated since this start: now.')
        runner.val_loop.run()
