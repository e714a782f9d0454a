"""Run a sweep to its end: look at what is on disk, start what is due, again and again."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmseg_daft.files import read_json, write_atomically
from mmseg_daft.sweep.decision import Decision, Seen, decide_by_looking
from mmseg_daft.sweep.executor import Executor
from mmseg_daft.sweep.setup import Setup, describe, look

MOST_REFUSALS = 3


def observe(
    setup: Setup, folder: Path, in_queue: set[str] | None, max_failures: int, accept_missing: bool,
) -> tuple[Decision, dict[str, Seen]]:
    """Return the decision and what it rests on; without a known queue, all jobs count as under way."""
    return decide_by_looking(
        setup.sweep, lambda run: look(folder, run, in_queue), max_failures, accept_missing)


def run_sweep(
    setup: Setup, folder: Path, executor: Executor, max_failures: int, accept_missing: bool, interval: float,
    show: Callable[[Decision, dict[str, Seen], str], None],
) -> tuple[Decision, dict[str, Seen]]:
    """Start runs until the sweep is complete, or cannot go on; return the last decision and what it rests on.

    Args:
        setup: What is swept.
        folder: The sweep's.
        executor: Trains.
        max_failures: How often a run may fail.
        accept_missing: Go on without runs that failed more often.
        interval: Seconds between two looks.
        show: Called with the decision, what is known, and a remark.
    """
    refusals = 0
    with locked(folder):
        write_atomically(folder / 'patience.json', [max_failures, accept_missing])
        while True:
            queue = executor.in_queue()  # before the folders: what ends meanwhile has its result there
            remark = 'Slurm does not answer: waiting for it' if queue is None else ''
            decision, seen = observe(setup, folder, queue, max_failures, accept_missing)
            active = [run for run in decision.runs if seen[run.name].active]
            show(decision, seen, remark)
            if decision.complete or not (decision.start or active):
                return decision, seen
            due = [] if queue is None else decision.start[:executor.free(len(active))]
            if due:
                places = [describe(setup, folder, run) for run in due]
                try:
                    executor.submit(places)
                    refusals = 0
                except executor.submitit.core.utils.FailedJobError as error:
                    refusals += 1
                    if refusals >= MOST_REFUSALS:
                        raise SystemExit(f'Slurm refuses the jobs: {error}') from error
            time.sleep(interval)


def patience(folder: Path) -> tuple[int, bool]:
    """Return ``max_failures`` and ``accept_missing`` of the last ``run``."""
    max_failures, accept_missing = read_json(folder / 'patience.json') or (2, False)
    return max_failures, accept_missing


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process from running the same sweep.

    Raises:
        SystemExit: One does.
    """
    descriptor = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemExit(f'{folder} is being run by another process; look at it with tools/sweep.py status.') from error
    else:
        yield
    finally:
        os.close(descriptor)

