"""A sweep on disk: its folder, and one for each run. The files, each written whole or not at all, are all its memory.

The standard library alone: jobs on a cluster carry ``RunFolder`` with them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmseg_daft.files import read_json, tool, write_atomically
from mmseg_daft.run_output import PROBE, final_checkpoint
from mmseg_daft.sweep.protocol import (
    RATES,
    REPORT,
    UNCONVERTED,
    Decision,
    Run,
    Seen,
    Sweep,
    decide_by_looking,
    rate_text,
)

CODE = Path(__file__).resolve().parents[1]
# What may differ where the same sweep is planned again, and where the same run is reached in another way: another
# spelling of the interpreter or a moved checkout is no other run.
PLANNED_AT = {'revision', 'directory'}
WAYS = {'command', 'test_command', 'directory', 'revision', 'code'}


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
        """Write ``run.json``; raise ``SystemExit`` where the folder is that of another run."""
        _write_unless_other(self.path / 'run.json', content, WAYS)

    def description(self) -> dict[str, Any] | None:
        """Return what the run is, ``None`` before it was described."""
        return read_json(self.path / 'run.json')

    def submitted(self, job: str, executor: str, ticket: str) -> None:
        """Note a job that is to train this run, and the ticket that it carries."""
        write_atomically(self.path / 'submissions' / f'{len(self._notes("submissions")) + 1:04d}.json',
                         dict(job=job, executor=executor, ticket=ticket, time=time.time()))

    def job(self) -> str | None:
        """Return the job that was submitted last."""
        return (self._last_submission() or {}).get('job')

    def is_in(self, queue: set[str] | None, executor: str) -> bool:
        """Return whether the job that was submitted last runs or waits in an executor's queue.

        ``None`` is a queue that does not answer: it has every job that was submitted to it.
        """
        last = self._last_submission()
        return last is not None and last['executor'] == executor and (queue is None or last['job'] in queue)

    def excuse(self, ticket: str) -> None:
        """Note that a job has nothing to do, or shall do nothing: that it makes no attempt is no failure."""
        write_atomically(self.path / 'busy' / ticket, '')

    def result(self) -> dict[str, Any] | None:
        """Return the result, ``None`` before the run has ended."""
        return read_json(self.path / 'result.json')

    def write_result(self, content: dict[str, Any]) -> None:
        """Write the result: the run has ended."""
        write_atomically(self.path / 'result.json', content)

    def attempts(self) -> list[dict[str, Any]]:
        """Return the starts, in order."""
        return self._notes('attempts')

    def begin_attempt(self, job: str, iteration: int, ticket: str = '') -> Path:
        """Note a start, from an iteration; return the note's path for ``note`` and ``end_attempt``."""
        path = self.path / 'attempts' / f'{len(self.attempts()) + 1:04d}.json'
        write_atomically(path, dict(started=time.time(), host=socket.gethostname(), pid=os.getpid(), job=job,
                                    ticket=ticket, iteration=iteration, outcome=None))
        return path

    @staticmethod
    def note(attempt: Path, **more: Any) -> None:
        """Note more of a start, such as the process that trains."""
        write_atomically(attempt, {**read_json(attempt), **more})

    @staticmethod
    def end_attempt(attempt: Path, outcome: str, **more: Any) -> None:
        """Note how a start ended: ``'done'``, ``'diverged'``, ``'failed'`` or ``'stopped'`` (to be resumed)."""
        RunFolder.note(attempt, ended=time.time(), outcome=outcome, **more)

    def lock(self, seconds: float = 2) -> int | None:
        """Take the lock and return its file descriptor, or ``None`` where another process holds it.

        It tries for longer than ``is_locked`` of another process takes. Whoever trains inherits the descriptor, and
        the lock is free when the last of them has ended, however.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + seconds
        while (descriptor := _flock(self.path / 'lock', fcntl.LOCK_EX)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return descriptor

    def is_locked(self) -> bool:
        """Return whether a process trains this run, on any machine whose file system shares locks."""
        if not (self.path / 'lock').exists():
            return False
        descriptor = _flock(self.path / 'lock', fcntl.LOCK_SH)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def seen(self, in_queue: bool = False) -> Seen:
        """Return what ``decide`` wants to know."""
        if (result := self.result()) is not None:
            return Seen(result['value'], result['diverged'])
        running = self.is_locked()
        active = in_queue or running
        return Seen(failures=self.failures(active), active=active, running=running)

    def failures(self, active: bool = False) -> int:
        """Return how many starts failed, and how many jobs did not come as far as a start.

        Jobs leave the queue without a word where the package cannot be loaded or a mount is missing. If they did not
        count, such a run would be submitted for ever. Not so the last one of an active run.
        """
        attempts, submissions = self.attempts(), self._notes('submissions')
        came = {attempt.get('ticket') for attempt in attempts} | {path.name for path in self.path.glob('busy/*')}
        settled = submissions[:-1] if active else submissions
        return count_failures(attempts, active) + sum(submission['ticket'] not in came for submission in settled)

    def _last_submission(self) -> dict[str, Any] | None:
        return (self._notes('submissions') or [None])[-1]

    def _notes(self, kind: str) -> list[dict[str, Any]]:
        return [read_json(path) for path in sorted((self.path / kind).glob('[0-9]*.json'))]


def _write_unless_other(file: Path, content: dict[str, Any], may_differ: set[str]) -> None:
    before, content = read_json(file), json.loads(json.dumps(content))
    known = before or content
    differs = sorted(key for key in {*known, *content} - may_differ if known.get(key) != content.get(key))
    if differs:
        raise SystemExit(f'{file.parent} holds another {file.stem}: it differs in {", ".join(differs)}. '
                         'Plan into another folder, or remove this one.')
    if before != content:
        write_atomically(file, content)


def _flock(path: Path, kind: int) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def count_failures(attempts: list[dict[str, Any]], active: bool) -> int:
    """Return how many starts failed.

    A start that vanished without a word (node failure, kill) counts, unless it is the one under way or it got
    further than where it began. Where Slurm restarted the very job, it had not failed: it was preempted.
    """
    failures = 0
    for attempt, later in zip_longest(attempts, attempts[1:]):
        if later is not None and later['job'] == attempt['job']:
            continue
        if attempt['outcome'] == 'failed':
            failures += 1
        elif attempt['outcome'] is None:
            going_on = active if later is None else later['iteration'] > attempt['iteration']
            failures += not going_on
    return failures


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder: what ``plan`` fixed (``sweep.json``), and the folders of its runs."""

    path: Path  # as it was named
    sweep: Sweep
    configs: dict[str, str]  # of each method, as named
    held_out: float  # the part of the training images that selects
    held_out_by: str  # as in hold_out; '' for what suits the data set
    held_out_seed: int
    options: list[str] = field(default_factory=list)  # for all runs, as --cfg-options
    gpus_per_run: int = 1  # processes of each run, on one machine; 0 trains on the CPU
    revision: str = ''  # of the code, when planned
    directory: str = '.'  # where plan was started: relative paths in the configs start there
    epochs: int = 0  # of each run, where the configs count these
    validation: str = ''  # the configs' images that select where none are held out: val, or test where val is the same

    def __post_init__(self) -> None:
        if re.search(r'[\s,"\'\[\]()]', str(self.path.resolve())):
            raise SystemExit(f'{self.path.resolve()}: runs get paths in here as options, which MMEngine takes apart at '
                             'spaces, commas, quotes and brackets. Name another folder.')

    @classmethod
    def load(cls, path: Path) -> SweepFolder:
        """Read ``sweep.json``; raise ``SystemExit`` where there is none."""
        content = read_json(path / 'sweep.json')
        if content is None:
            raise SystemExit(f'{path} holds no sweep: start with mmseg-daft sweep plan {path} --method …')
        return cls(path, Sweep.from_json(content.pop('sweep')), **content)

    def save(self) -> None:
        """Write ``sweep.json``; raise ``SystemExit`` where the folder holds another sweep."""
        file, content = self.path / 'sweep.json', dict(asdict(self), sweep=self.sweep.to_json())
        for key in ('path', *(new for new in ('epochs', 'validation') if not content[new])):  # as before 0.2
            del content[key]
        before = read_json(file)  # where the same sweep is there, it changes only if its directory has moved
        if before and Path(before.get('directory', '.')).is_dir():
            content |= {key: before[key] for key in PLANNED_AT if key in before}
        _write_unless_other(file, content, PLANNED_AT)

    def run_folder(self, run: Run) -> RunFolder:
        """Return a run's folder."""
        return RunFolder(self.path.resolve() / 'runs' / run.name)

    def frozen_config(self, method: str, stage: str) -> Path:
        """Return the path of a method's frozen config: for ``REPORT``, or for the steps that select."""
        kind = REPORT if stage == REPORT else f'select{UNCONVERTED if stage.endswith(UNCONVERTED) else ""}'
        return self.path.resolve() / 'configs' / f'{method}-{kind}.py'

    @property
    def selecting_images(self) -> str:
        """Whose images select, in words."""
        return {'': 'held-out images', 'val': 'validation images', 'test': 'test images'}[self.validation]

    @property
    def selected_on(self) -> str:
        """What selects, in words, with the numbers of images where some are held out."""
        if self.validation:
            return f'the {self.selecting_images}'
        held, kept = (sum(len(path.read_text().splitlines()) for path in self.path.glob(f'split/{which}-*.txt'))
                      for which in ('held-out', 'train'))
        return f'{held} of the {held + kept} training images, held out'

    @property
    def length(self) -> tuple[str, int]:
        """What a run counts, ``'epoch'`` or ``'iter'``, and how many of them it has."""
        return ('epoch', self.epochs) if self.epochs else ('iter', self.sweep.iterations)

    def ending(self, run: Run, number: int = 0) -> dict[str, Any]:
        """Return what ``run.json`` says of a run's end, nothing where the last iteration's model is validated.

        Args:
            run: The run.
            number: After how many iterations or epochs it ends, 0 for as many as a sweep's.
        """
        unit, length = self.length
        final = f'{unit}_{number or length}.pth'
        if self.sweep.methods[run.method].is_probe:
            return dict(final=PROBE)
        if not self.validation:
            return dict(final=final) if self.epochs else {}
        best = f'best_{self.sweep.metric.replace("/", "_")}_{unit}_*.pth'
        return dict(final=final, best=best, **dict(tests=True) if run.stage == REPORT else {})

    def train_command(self, run: Run, work_dir: Path, start: Path | None) -> list[str]:
        """Return the command that trains a run from its start: a checkpoint, if it starts from another run."""
        if self.sweep.methods[run.method].is_probe:
            return [sys.executable, tool('probe.py'), str(self.frozen_config(run.method, run.stage)),
                    '--work-dir', str(work_dir), '--cfg-options', f'randomness.seed={run.seed}']
        options = [*(f'optim_wrapper.paramwise_cfg.{rate}={rate_text(getattr(run, rate))}' for rate in RATES),
                   f'randomness.seed={run.seed}']
        if start is not None:
            options += ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={start}', 'load_from=None']
        return [*self._command('train', run, '--work-dir', str(work_dir)), '--cfg-options', *options]

    def test_command(self, run: Run, work_dir: Path) -> list[str]:
        """Return the command that evaluates a run, to be ended by its checkpoint."""
        return self._command('test', run, '--work-dir', str(work_dir))

    def _command(self, name: str, run: Run, *words: str) -> list[str]:
        command = [tool(f'{name}.py'), str(self.frozen_config(run.method, run.stage)), *words]
        if self.gpus_per_run > 1:
            torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(self.gpus_per_run)]
            command = [*torchrun, *command, '--launcher', 'pytorch']
        return [sys.executable, *command]

    def describe(self, run: Run) -> RunFolder:
        """Write what a run is into its folder, and return that; raise ``SystemExit`` where it cannot be started."""
        folder, start = self.run_folder(run), None
        if not Path(self.directory).is_dir():
            raise SystemExit(f'The sweep was planned in {self.directory}, which is gone: give the plan command again, '
                             'in the directory where its relative paths now start.')
        if run.start is not None:
            ending = {'final': f'iter_{self.sweep.iterations}.pth', **self.ending(run.start)}
            start = final_checkpoint(self.run_folder(run.start).work_dir, ending['final'], ending.get('best', ''))
            if start is None:
                raise SystemExit(f'{run.start.name} has a result, but its final checkpoint is gone, and {run.name} '
                                 'starts from it. Remove the result.json there to train it again.')
        folder.describe({
            **asdict(run), 'start': run.start.name if run.start else None, 'iterations': self.sweep.iterations,
            'metric': self.sweep.metric, 'config': self.configs[run.method], 'revision': self.revision,
            'gpus': self.gpus_per_run, 'directory': self.directory, 'code': str(CODE),
            'command': self.train_command(run, folder.work_dir, start),
            'test_command': self.test_command(run, folder.path / 'test'), **self.ending(run)})
        return folder

    def look(self, queue: set[str] | None, executor: str = 'slurm') -> Decision:
        """Return what to do next, by the jobs that run or wait in an executor's queue, as in ``RunFolder.is_in``."""
        def seen(run: Run) -> Seen:
            folder = self.run_folder(run)
            return folder.seen(folder.is_in(queue, executor))

        patience = read_json(self.path / 'patience.json') or ()  # max_failures and accept_missing of the last run
        return decide_by_looking(self.sweep, seen, *patience)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from running the same sweep: it raises ``SystemExit``."""
        descriptor = _flock(self.path / 'lock', fcntl.LOCK_EX)
        if descriptor is None:
            raise SystemExit(f'{self.path} is being run by another process; mmseg-daft sweep status {self.path} shows '
                             'how far it is.')
        try:
            yield
        finally:
            os.close(descriptor)
