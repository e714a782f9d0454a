"""A hook that makes iterations slow without work, for runs that are to be interrupted."""

from __future__ import annotations

import os
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SlowIterationsHook(Hook):
    """Sleep $SECONDS_PER_ITERATION before each iteration, until Slurm has restarted the job once."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if 'SLURM_RESTART_COUNT' not in os.environ:
            time.sleep(float(os.environ.get('SECONDS_PER_ITERATION', 0)))
