"""The job that trains one run to its end: what a cluster, or this machine, executes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mmseg_daft import run_output as output
from mmseg_daft.files import mend_last_checkpoint
from mmseg_daft.sweep.process_tree import ask, ask_until_it_ends
from mmseg_daft.sweep.revision import revision, revisions
from mmseg_daft.sweep.run_folder import RunFolder

STOPPED = 75
"""How a training says that it saved a checkpoint because of a signal (``CheckpointOnSignalHook``)."""
SIGNAL = signal.SIGUSR2
PATIENCE = 240
"""Seconds for saving a checkpoint: less than Slurm gives before the end of a job."""


@dataclass
class TrainJob:
    """Train the run of a folder, unless that is done; started again, it goes on from the last checkpoint.

    submitit calls it, and ``checkpoint`` when Slurm announces the end of the job, which then goes back into the queue.

    Attributes:
        folder: The run's folder, with its ``run.json``.
        ticket: Which submission this is, as of ``RunFolder.submitted``.
        gpus: For ``CUDA_VISIBLE_DEVICES``; None leaves that as the job finds it.
    """

    folder: Path
    ticket: str = ''
    gpus: str | None = None
    process: subprocess.Popen | None = field(default=None, init=False)
    attempt: Path | None = field(default=None, init=False)

    def __call__(self) -> str:
        """Return how it ended: ``'done'``, ``'diverged'``, ``'stopped'`` or ``'busy'`` (another process trains it).

        Raises:
            RunFailedError: The training, or the evaluation after it, failed.
        """
        run = RunFolder(Path(self.folder))
        lock = run.lock()
        if lock is None:
            if self.ticket:
                run.excuse(self.ticket)
            return 'busy'
        try:
            return self._train(run, lock) if run.result() is None else 'done'
        finally:
            os.close(lock)

    def checkpoint(self) -> Any:
        """Wait until the training has saved and ended; return this job for the queue."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(TrainJob(self.folder, self.ticket, self.gpus))

    def stop(self) -> None:
        """Ask the training, all its ranks, to save a checkpoint, and wait for its end; kill it where that is too late.

        It then goes on from the checkpoint before.
        """
        if self.process is not None and self.process.returncode is None:
            ask_until_it_ends(self.process.pid, SIGNAL, self._trains, PATIENCE)
        if self.attempt is not None:
            RunFolder.end_attempt(self.attempt, 'stopped')

    def _trains(self) -> bool:
        try:
            return os.waitpid(self.process.pid, os.WNOHANG)[0] == 0  # Popen.wait may be what was interrupted
        except ChildProcessError:
            return False

    def _train(self, run: RunFolder, lock: int) -> str:
        description = run.description()
        iterations, metric = description['iterations'], description['metric']
        mend_last_checkpoint(run.work_dir)
        self.attempt = run.begin_attempt(_job_id(), output.last_saved_iteration(run.work_dir),
                                         self.ticket)
        if 'code' in description:
            run.note(self.attempt, revision=revision(Path(description['code'])))
        try:
            status = 0
            if output.final_checkpoint(run.work_dir, iterations) is None:
                status = self._run(run, description['command'], lock)
            checkpoint = output.final_checkpoint(run.work_dir, iterations)
            metrics = output.final_metrics(run.work_dir, iterations, metric)
            tested = checkpoint is not None and metrics is None
            if tested:  # the end came between the last iteration and its validation
                status = self._run(run, [*description['test_command'], str(checkpoint)], lock)
                with suppress(FileNotFoundError):
                    metrics = output.test_metrics(run.path / 'test', metric)
        except KeyboardInterrupt:
            run.end_attempt(self.attempt, 'stopped')
            raise
        except Exception as error:
            run.end_attempt(self.attempt, 'failed', error=str(error))
            raise
        diverged = output.diverged_at(run.work_dir)
        if diverged is not None or (checkpoint and metrics and not output.is_number(metrics[metric])):
            outcome = 'diverged'
        elif checkpoint and metrics:
            outcome = 'done'
        else:
            outcome = 'stopped' if status in (STOPPED, -signal.SIGTERM) else 'failed'
        run.end_attempt(self.attempt, outcome, status=status)
        if outcome in ('done', 'diverged'):
            run.write_result(dict(
                value=round(metrics[metric], 4) if outcome == 'done' else None, diverged=outcome == 'diverged',
                iteration=iterations if diverged is None else diverged, metrics=metrics if outcome == 'done' else {},
                checkpoint=str(checkpoint) if checkpoint else None, seconds=_seconds(run.attempts()),
                seconds_per_iteration=output.seconds_per_iteration(run.work_dir),
                revision=revisions(run.attempts()), tested=tested, **_environment()))
        if outcome == 'failed':
            raise output.failure(status, run.log)
        return outcome

    def _run(self, run: RunFolder, command: list[str], lock: int) -> int:
        """Run a command with its output in the run's log; return its exit status.

        It has a session of its own, out of Ctrl-C's reach, and ignores the signal unless it handles it: torchrun and
        other parents would die of it. The lock is its, too.
        """
        with run.log.open('ab') as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=[lock], preexec_fn=_ignore_signal, env=_environment_of_training(self.gpus),
                cwd=run.description().get('directory'))
            run.note(self.attempt, training=self.process.pid)
            try:
                while self.process.poll() is None:
                    time.sleep(0.1)
            except KeyboardInterrupt:
                ask(self.process.pid, SIGNAL)  # it saves, ends, and gives the lock back
                raise
        return self.process.returncode


def _ignore_signal() -> None:
    signal.signal(SIGNAL, signal.SIG_IGN)


def _environment_of_training(gpus: str | None) -> dict[str, str]:
    """This environment, without what belongs to submitit's process alone."""
    env = {key: value for key, value in os.environ.items() if not key.startswith('SUBMITIT_')}
    return env if gpus is None else {**env, 'CUDA_VISIBLE_DEVICES': gpus}


def _job_id() -> str:
    env = os.environ
    if 'SLURM_ARRAY_JOB_ID' in env:
        return f'{env["SLURM_ARRAY_JOB_ID"]}_{env["SLURM_ARRAY_TASK_ID"]}'
    return env.get('SLURM_JOB_ID') or f'process {os.getpid()} since {time.time():.0f}'


def _seconds(attempts: list[dict[str, Any]]) -> float:
    return round(sum(a['ended'] - a['started'] for a in attempts if a.get('ended')), 1)


def _environment() -> dict[str, Any]:
    """Return what the result was computed with."""
    versions = {}
    for name in ('torch', 'mmsegmentation', 'onedl-mmsegmentation', 'mmengine', 'onedl-mmengine', 'mmcv', 'mmcv-lite',
                 'numpy', 'mmseg-daft'):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(host=os.uname().nodename, job=_job_id(), versions=versions)
