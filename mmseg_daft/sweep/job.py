"""The job that trains one run to its end: what a cluster, or this machine, executes.

The standard library alone, but for submitit where it runs: jobs carry this module with them and start without torch.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mmseg_daft import run_output as output
from mmseg_daft.files import mend_last_checkpoint
from mmseg_daft.sweep.folder import RunFolder

STOPPED = 75  # the exit status of a training that saved a checkpoint because of SIGNAL (CheckpointOnSignalHook)
SIGNAL = signal.SIGUSR2
PATIENCE = 240  # seconds for saving a checkpoint: less than Slurm gives before the end of a job
AGAIN = 5  # seconds between two signals: one that comes while a process starts is lost
LAST = 60  # seconds that killed processes get to be gone
PACKAGES = ('torch', 'mmsegmentation', 'onedl-mmsegmentation', 'mmengine', 'onedl-mmengine', 'mmcv', 'mmcv-lite',
            'numpy', 'mmseg-daft')


@dataclass
class TrainJob:
    """Train the run of a folder, unless that is done; started again, it goes on from the last checkpoint.

    submitit calls it, and ``checkpoint`` when Slurm announces the end of the job, which then goes back into the queue.

    Attributes:
        folder: The run's folder, with its ``run.json``.
        ticket: Which submission this is, as in ``RunFolder.submitted``.
        gpus: For ``CUDA_VISIBLE_DEVICES``; ``None`` leaves that as the job finds it.
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
            end_tree(self.process.pid, self._trains, PATIENCE)
        if self.attempt is not None:
            RunFolder.end_attempt(self.attempt, 'stopped')

    def _trains(self) -> bool:
        try:
            return os.waitpid(self.process.pid, os.WNOHANG)[0] == 0  # Popen.wait may be what was interrupted
        except ChildProcessError:
            return False

    def _train(self, run: RunFolder, lock: int) -> str:
        described = run.description()
        iterations, metric = described['iterations'], described['metric']
        mend_last_checkpoint(run.work_dir)
        self.attempt = run.begin_attempt(_job_id(), output.last_saved_iteration(run.work_dir), self.ticket)
        if 'code' in described:
            run.note(self.attempt, revision=revision(Path(described['code'])))
        try:
            status = 0
            if output.final_checkpoint(run.work_dir, iterations) is None:
                status = self._execute(run, described['command'], lock)
            checkpoint = output.final_checkpoint(run.work_dir, iterations)
            metrics = output.final_metrics(run.work_dir, iterations, metric)
            tested = checkpoint is not None and metrics is None
            if tested:  # the end came between the last iteration and its validation
                status = self._execute(run, [*described['test_command'], str(checkpoint)], lock)
                with suppress(FileNotFoundError):
                    metrics = output.test_metrics(run.path / 'test', metric)
        except KeyboardInterrupt:
            run.end_attempt(self.attempt, 'stopped')
            raise
        except Exception as error:
            run.end_attempt(self.attempt, 'failed', error=str(error))
            raise
        diverged = output.diverged_at(run.work_dir)
        if diverged is not None or (checkpoint and metrics and not math.isfinite(metrics[metric])):
            outcome = 'diverged'
        elif checkpoint and metrics:
            outcome = 'done'
        else:
            outcome = 'stopped' if status in (STOPPED, -signal.SIGTERM) else 'failed'
        run.end_attempt(self.attempt, outcome, status=status)
        if outcome == 'failed':
            raise output.failure(status, run.log)
        if outcome != 'stopped':
            attempts = run.attempts()
            run.write_result(dict(
                value=round(metrics[metric], 4) if outcome == 'done' else None, diverged=outcome == 'diverged',
                iteration=iterations if diverged is None else diverged, metrics=metrics if outcome == 'done' else {},
                checkpoint=str(checkpoint) if checkpoint else None,
                seconds=round(sum(each['ended'] - each['started'] for each in attempts if each.get('ended')), 1),
                seconds_per_iteration=output.seconds_per_iteration(run.work_dir),
                revision=', '.join(dict.fromkeys(each.get('revision') or 'unknown' for each in attempts)),
                tested=tested, host=os.uname().nodename, job=_job_id(), versions=_versions()))
        return outcome

    def _execute(self, run: RunFolder, command: list[str], lock: int) -> int:
        """Run a command with its output in the run's log; return its exit status.

        It has a session of its own, out of Ctrl-C's reach, and ignores the signal unless it handles it: torchrun and
        other parents would die of it. The lock is its, too.
        """
        env = {key: value for key, value in os.environ.items() if not key.startswith('SUBMITIT_')}
        if self.gpus is not None:
            env['CUDA_VISIBLE_DEVICES'] = self.gpus
        with run.log.open('ab') as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=[lock], preexec_fn=lambda: signal.signal(SIGNAL, signal.SIG_IGN), env=env,
                cwd=run.description().get('directory'))
            run.note(self.attempt, training=self.process.pid)
            try:
                while self.process.poll() is None:
                    time.sleep(0.1)
            except KeyboardInterrupt:
                ask_tree(self.process.pid)  # it saves, ends, and gives the lock back
                raise
        return self.process.returncode


def revision(code: Path) -> str:
    """Return which code it is: the commit of a checkout, with a + where files differ from it, or the release."""
    git = ['git', '-C', str(code)]
    try:
        # A package that is installed below another repository is not a file of that repository.
        if subprocess.run([*git, 'ls-files'], capture_output=True, check=True).stdout:
            words = [*git, 'describe', '--always', '--abbrev=12', '--exclude=*', '--dirty=+']
            return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    release = _versions().get('mmseg-daft')
    return f'mmseg-daft {release}' if release else ''


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _job_id() -> str:
    env = os.environ
    if 'SLURM_ARRAY_JOB_ID' in env:
        return f'{env["SLURM_ARRAY_JOB_ID"]}_{env["SLURM_ARRAY_TASK_ID"]}'
    return env.get('SLURM_JOB_ID') or f'process {os.getpid()} since {time.time():.0f}'


def tree(pid: int) -> list[int]:
    """Return a process and its descendants, also in sessions of their own as torchrun's workers; the process first."""
    children: dict[int, list[int]] = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):  # it has just ended
            parent = int((folder / 'stat').read_text(errors='replace').rpartition(')')[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def ask_tree(pid: int) -> None:
    """Send ``SIGNAL`` to those of a tree that handle it or hold it back; the others would die of it."""
    for one in tree(pid):
        with suppress(OSError, ValueError):
            masks = [int(line.split()[1], 16) for line in Path(f'/proc/{one}/status').read_text().splitlines()
                     if line.startswith(('SigCgt:', 'SigBlk:'))]
            if any(mask >> (SIGNAL - 1) & 1 for mask in masks):
                os.kill(one, SIGNAL)


def end_tree(pid: int, alive: Callable[[], bool], seconds: float) -> None:
    """Ask a tree again and again to end; kill what is left of it after some time."""
    begin, next_time = time.monotonic(), 0.0
    while alive() and time.monotonic() < begin + seconds:
        if time.monotonic() >= next_time:
            ask_tree(pid)
            next_time = time.monotonic() + AGAIN
        time.sleep(0.1)
    if alive():
        for one in reversed(tree(pid)):
            with suppress(OSError):
                os.kill(one, signal.SIGKILL)
    while alive() and time.monotonic() < begin + seconds + LAST:
        time.sleep(0.1)
