"""An MMEngine hook that saves a checkpoint and ends the run when a signal asks for it, as Slurm does before a limit."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmseg_daft.core.arguments import Rule, several, takes
from mmseg_daft.files import write_atomically

STOPPED = 75
"""The exit status of a run that saved a checkpoint because of a signal: EX_TEMPFAIL, start it again with --resume."""
CHECKPOINT = 'on_signal.pth'
"""The checkpoint's name; there is at most one, and it goes when the run has ended."""

DEFAULT = ('SIGUSR1', 'SIGUSR2')
SIGNALS = several(
    Rule(lambda name: isinstance(name, str) and name in signal.Signals.__members__, ''),
    f'the name of a signal or a list of such, as {DEFAULT}')


def signals_of(names: Sequence[str]) -> set[signal.Signals]:
    """Return the signals of some names, or of one."""
    return {signal.Signals[name] for name in ([names] if isinstance(names, str) else names)}


@HOOKS.register_module()
@takes(signals=SIGNALS)
class CheckpointOnSignalHook(Hook):
    """Save a checkpoint after the iteration in which a signal came, then end with exit status 75.

    Where gradients are accumulated, it is the next iteration with an optimizer step. In a loop of epochs it is the end
    of the epoch, as MMEngine resumes no sooner. A validation that is due then comes first, as a resumed run does not
    make up for it. Let the signal come as long before the limit as that takes.

    ``--resume`` goes on from there: MMEngine's ``last_checkpoint`` names the new file once it is whole. Slurm sends the
    signal some time before the limit (``--signal``); ``tools/slurm_requeue.sh`` and the sweep then put the job back
    into the queue. All ranks stop after the same iteration, whichever of them the signal reached.

    The handlers are installed by the constructor, because it is the one place before the data loader's workers
    start: Slurm sends its signal to every process of a step, and a worker without a handler dies of it.

    Args:
        signals: Their names. ``'SIGTERM'`` may be added where preemption sends nothing else; torchrun,
            however, sends it to end the other ranks of a run in which one failed.
    """

    priority = 'HIGHEST'  # before other hooks begin what a resumed run will begin again

    def __init__(self, signals: Sequence[str] = DEFAULT) -> None:
        self.received: str | None = None
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            numbers = signals_of(signals)
            for number in numbers:
                signal.signal(number, self._note)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def before_train(self, runner: Runner) -> None:
        """Note where this start begins: it goes on by one iteration at least, or by what is left of an epoch."""
        self._start = runner.iter

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Save and end with ``SystemExit``, if a signal came on any rank and the loop can go on from here."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._end_if_asked(runner, by_epoch=False)

    def before_train_epoch(self, runner: Runner) -> None:
        """Do the same in a loop of epochs, which MMEngine resumes at the start of an epoch alone."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._end_if_asked(runner, by_epoch=True)

    def _end_if_asked(self, runner: Runner, by_epoch: bool) -> None:
        if runner.iter == self._start:
            return
        asked = torch.tensor(int(self.received is not None))
        all_reduce(asked, op='max')
        wrapper = runner.optim_wrapper
        accumulates = getattr(wrapper, '_accumulative_counts', 1) > 1
        if not asked or (accumulates and not wrapper.should_update()):  # no checkpoint holds gradients
            return
        save(runner)
        done = f'epoch {runner.epoch}' if by_epoch else f'iteration {runner.iter}'
        runner.logger.info(f'Checkpoint after {done} on {self.received or "another rank"}\'s signal; the run ends '
                           'here, and --resume goes on.')
        barrier()  # a rank that leaves may end the others
        raise SystemExit(STOPPED)

    def after_train(self, runner: Runner) -> None:
        """Remove what an earlier signal left, once another checkpoint is the last one."""
        path, note = Path(runner.work_dir) / CHECKPOINT, Path(runner.work_dir) / 'last_checkpoint'
        if is_main_process() and path.is_file() and note.is_file() and Path(note.read_text()).name != CHECKPOINT:
            path.unlink()


def save(runner: Runner) -> None:
    """Save a resumable checkpoint so that a kill at any moment leaves the one before in force."""
    done = dict(epoch=runner.epoch, iter=runner.iter)  # MMEngine adds one, for hooks that save before it counts
    runner.save_checkpoint(runner.work_dir, f'{CHECKPOINT}.part', meta=done)
    if is_main_process():
        path = Path(runner.work_dir, CHECKPOINT)
        os.replace(f'{path}.part', path)
        write_atomically(Path(runner.work_dir, 'last_checkpoint'), str(path).encode())
