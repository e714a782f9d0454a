"""A run's folder: its files, each written whole or not at all, tell all that happened to it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from mmseg_daft.files import read_json, write_atomically
from mmseg_daft.sweep.decision import Seen

WAYS = {'command', 'test_command', 'directory', 'revision', 'code'}
"""What may change of a run's description: another spelling of the interpreter or a moved checkout is no other run."""


class RunFolder:
    """The folder of one run.

    ========================  ===============================================================
    ``run.json``              what the run is: method, stage, rates, seed, commands
    ``submissions/0001.json`` each job that was submitted to train it, with the ticket that it carries
    ``busy/TICKET``           a job that came while another one was training, and left
    ``attempts/0001.json``    each start: when, where, by which job with which ticket, and how it ended
    ``result.json``           the result; where this is, the run is never started again
    ``lock``                  held by the process that trains
    ``train/``                MMEngine's work directory
    ``log.txt``               what the training printed
    ========================  ===============================================================
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work_dir = path / 'train'
        self.log = path / 'log.txt'

    def describe(self, content: dict[str, Any]) -> None:
        """Write ``run.json``, anew where the same run is now reached in another way (``WAYS``).

        Raises:
            ValueError: The folder is that of another run.
        """
        content = json.loads(json.dumps(content))
        before = read_json(self.path / 'run.json')
        if before is None:
            write_atomically(self.path / 'run.json', content)
            return
        differs = sorted(key for key in {*before, *content} - WAYS if before.get(key) != content.get(key))
        if differs:
            raise ValueError(f'{self.path} holds another run: it differs in {", ".join(differs)}. '
                             'Plan into another folder.')
        if before != content:
            write_atomically(self.path / 'run.json', content)

    def description(self) -> dict[str, Any]:
        """Return what the run is."""
        return read_json(self.path / 'run.json')

    def submitted(self, job: str, executor: str, ticket: str) -> None:
        """Note a job that is to train this run, and the ticket that it carries."""
        write_atomically(self.path / 'submissions' / f'{len(self.submissions()) + 1:04d}.json',
                    dict(job=job, executor=executor, ticket=ticket, time=time.time()))

    def submissions(self) -> list[dict[str, Any]]:
        """Return the jobs that were submitted, in order."""
        return self._notes('submissions')

    def job(self) -> str | None:
        """Return the job that was submitted last."""
        submissions = self.submissions()
        return submissions[-1]['job'] if submissions else None

    def excuse(self, ticket: str) -> None:
        """Note that a job has nothing to do, or shall do nothing: that it makes no attempt is no failure."""
        write_atomically(self.path / 'busy' / ticket, '')

    def result(self) -> dict[str, Any] | None:
        """Return the result."""
        return read_json(self.path / 'result.json')

    def write_result(self, content: dict[str, Any]) -> None:
        """Write the result: the run has ended."""
        write_atomically(self.path / 'result.json', content)

    def attempts(self) -> list[dict[str, Any]]:
        """Return the starts, in order."""
        return self._notes('attempts')

    def begin_attempt(self, job: str, iteration: int, ticket: str = '') -> Path:
        """Note a start, from an iteration; return the note's path for ``end_attempt``."""
        path = self.path / 'attempts' / f'{len(self.attempts()) + 1:04d}.json'
        write_atomically(path, dict(started=time.time(), host=socket.gethostname(), pid=os.getpid(), job=job,
                               ticket=ticket, iteration=iteration, outcome=None))
        return path

    @staticmethod
    def end_attempt(path: Path, outcome: str, **more: Any) -> None:
        """Note how a start ended: ``'done'``, ``'diverged'``, ``'failed'`` or ``'stopped'`` (to be resumed)."""
        RunFolder.note(path, ended=time.time(), outcome=outcome, **more)

    @staticmethod
    def note(path: Path, **more: Any) -> None:
        """Note more of a start, such as the process that trains."""
        write_atomically(path, {**read_json(path), **more})

    def lock(self, seconds: float = 2) -> int | None:
        """Take the lock and return its file descriptor, or None where another process holds it.

        Whoever trains inherits the descriptor, and the lock is free when the last of them has ended, however.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / 'lock', os.O_RDWR | os.O_CREAT)
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:  # longer than a look by is_locked takes
                    os.close(descriptor)
                    return None
                time.sleep(0.05)
            else:
                return descriptor

    def is_locked(self) -> bool:
        """Return whether a process trains this run, on any machine whose file system shares locks."""
        try:
            descriptor = os.open(self.path / 'lock', os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def seen(self, in_queue: bool = False) -> Seen:
        """Return what ``decide`` wants to know."""
        result = self.result()
        if result is not None:
            return Seen(value=result['value'], diverged=result['diverged'])
        active = in_queue or self.is_locked()
        return Seen(failures=self.failures(active), active=active)

    def failures(self, active: bool = False) -> int:
        """Return how many starts failed, and how many jobs did not come as far as a start."""
        attempts = self.attempts()
        came = {attempt.get('ticket') for attempt in attempts} | {path.name for path in self.path.glob('busy/*')}
        return count_failures(attempts, active) + count_vanished(self.submissions(), came, active)

    def _notes(self, kind: str) -> list[dict[str, Any]]:
        return [read_json(path) for path in sorted((self.path / kind).glob('[0-9]*.json'))]


def count_failures(attempts: Sequence[dict[str, Any]], active: bool) -> int:
    """Return how many starts failed.

    A start that vanished without a word (node failure, kill) counts, unless it is the one under way or it got
    further than where it began. Where Slurm restarted the very job, it had not failed: it was preempted.
    """
    failures = 0
    for i, attempt in enumerate(attempts):
        later = attempts[i + 1] if i + 1 < len(attempts) else None
        if later is not None and later['job'] == attempt['job']:
            continue
        if attempt['outcome'] == 'failed':
            failures += 1
        elif attempt['outcome'] is None:
            going_on = active if later is None else later['iteration'] > attempt['iteration']
            failures += not going_on
    return failures


def count_vanished(submissions: Sequence[dict[str, Any]], came: Set[str], active: bool) -> int:
    """Return how many jobs left the queue without a word: the package could not be loaded, a mount was missing.

    Without them a run whose jobs die so early would be submitted for ever.

    Args:
        submissions: In order.
        came: The tickets of the jobs that are known to have come.
        active: The last one is in the queue, or the run is being trained.
    """
    settled = submissions[:-1] if active else submissions
    return sum(submission['ticket'] not in came for submission in settled)
