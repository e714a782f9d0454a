"""A hook that writes down where a training is, and a transform that writes down what it was given."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, TRANSFORMS
from mmengine.runner import Runner

from support.training_process import EVENTS


@HOOKS.register_module()
class EventsHook(Hook):
    """Append a line to the file ``events`` of the run's folder at each stage of the training."""

    priority = 'LOWEST'

    def _write(self, runner: Runner, event: str) -> None:
        if is_main_process():
            with open(Path(runner.work_dir) / EVENTS, 'a') as file:
                file.write(f'{event}\n')

    def before_train(self, runner: Runner) -> None:
        self._write(runner, 'ready')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._write(runner, f'iteration {runner.iter}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._write(runner, f'save {runner.iter + 1}')

    def before_val(self, runner: Runner) -> None:
        self._write(runner, f'validation {runner.iter}')


@HOOKS.register_module()
class PassEventHook(EventsHook):
    """Append a line to the same file before the conversion."""

    priority = 'ABOVE_NORMAL'

    def before_train(self, runner: Runner) -> None:
        self._write(runner, 'pass')

    before_train_iter, before_save_checkpoint, before_val = (
        Hook.before_train_iter, Hook.before_save_checkpoint, Hook.before_val)


@HOOKS.register_module()
class RankDigestHook(Hook):
    """Write a hash of each rank's backbone, as training will start with it, to ``digest.RANK`` in the run's folder."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state = b''.join(tensor.numpy().tobytes() for tensor in model.backbone.state_dict().values())
        Path(runner.work_dir, f'digest.{get_rank()}').write_text(hashlib.sha256(state).hexdigest())


@HOOKS.register_module()
class SlowIterationsHook(Hook):
    """Sleep $SECONDS_PER_ITERATION before each iteration, until Slurm has restarted the job once."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if 'SLURM_RESTART_COUNT' not in os.environ:
            time.sleep(float(os.environ.get('SECONDS_PER_ITERATION', 0)))


@TRANSFORMS.register_module()
class CountSamples:
    """Append a line to a file for each sample that goes through the pipeline."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, results: dict) -> dict:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f'{results["sample_idx"]}\n'.encode())
        os.close(handle)
        return results
