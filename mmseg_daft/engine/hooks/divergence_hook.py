"""An MMEngine hook that ends a diverged run at once."""

import math
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.arguments import takes
from mmseg_daft.files import write_atomically

MARK = 'diverged.json'
"""The file in ``work_dir`` that says that, and when, a run diverged."""


@HOOKS.register_module()
@takes()
class DivergenceHook(Hook):
    """End the run when its loss is no longer a finite number.

    NaN never goes away again, and a learning-rate sweep has rates at which it comes early. The sweep
    tells such runs from failed ones by the file ``diverged.json`` in the run's ``work_dir``.
    """

    priority = 'VERY_HIGH'  # before anything is logged or saved

    def before_train(self, runner: Runner) -> None:
        """Forget the mark of an earlier start."""
        Path(runner.work_dir, MARK).unlink(missing_ok=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None,
    ) -> None:
        """Look at the loss.

        Raises:
            FloatingPointError: It is infinite or not a number.
        """
        loss = (outputs or {}).get('loss')
        if loss is None:
            return
        value = float(torch.as_tensor(loss).detach())
        if math.isfinite(value):
            return
        iteration = runner.iter + 1
        write_atomically(Path(runner.work_dir, MARK), dict(iteration=iteration, loss=str(value)))  # on several ranks
        raise FloatingPointError(
            f'The loss of iteration {iteration} is {value}: the run diverged and ends here. '
            'Lower the learning rate (backbone_lr, head_lr), or clip the gradients: '
            '--cfg-options optim_wrapper.clip_grad.max_norm=1')
