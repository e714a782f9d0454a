"""Train a sweep's runs to its end, on a Slurm cluster or here, by submitit: start what is due, again and again."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmseg_daft
from mmseg_daft.files import write_atomically
from mmseg_daft.sweep.decision import Decision
from mmseg_daft.sweep.folder import RunFolder, SweepFolder
from mmseg_daft.sweep.job import PATIENCE, TrainJob, end_tree

A_WEEK = 7 * 24 * 60
MOST_RESTARTS = 100
MOST_REFUSALS = 3
JOB_NAME = 'sweep-'
HELD = 'launch failed requeued held'


@dataclass
class Executor:
    """Submits runs and tells which ones are under way.

    Attributes:
        kind: ``'slurm'``, ``'local'`` (processes here) or ``'debug'`` (in this process, one after the other).
        folder: For submitit's files.
        parallel: How many runs at a time.
        gpus_per_run: Of each run.
        hours: Slurm's time limit of one job; a longer run is requeued.
        slurm: More parameters of submitit's ``SlurmExecutor``, such as ``partition``.

    Raises:
        SystemExit: submitit, Slurm or a GPU that is needed is missing.
    """

    kind: str
    folder: Path
    parallel: int
    gpus_per_run: int
    hours: float = 24
    slurm: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Any] = field(default_factory=dict, init=False)
    runs: list[RunFolder] = field(default_factory=list, init=False)
    gpus: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        try:
            import cloudpickle
            import submitit
        except ModuleNotFoundError as error:
            raise SystemExit(f"{error.name} is not installed: pip install 'mmseg-daft[sweep]'") from error
        if self.kind == 'slurm' and shutil.which('sbatch') is None:
            raise SystemExit('There is no sbatch here: run this on a login node of the cluster, or --executor local.')
        if self.kind == 'local' and self.gpus_per_run:
            self.gpus, wanted = visible_gpus(), self.parallel * self.gpus_per_run
            if 0 < len(self.gpus) < wanted:
                raise SystemExit(f'{self.parallel} runs at a time on {self.gpus_per_run} GPUs each need {wanted}, and '
                                 f'{len(self.gpus)} are visible here: name a smaller --parallel, or plan with another '
                                 '--gpus-per-run (0: the CPU).')
        cloudpickle.register_pickle_by_value(mmseg_daft)  # jobs start without importing torch and mmseg
        self.submitit = submitit

    def in_queue(self) -> set[str] | None:
        """Return the ids of jobs that run or wait, ``None`` where Slurm does not answer: then nothing is known."""
        if self.kind == 'slurm':
            return slurm_queue(cancel_held=True)
        return {job for job, process in self.jobs.items() if not process.done()}

    def submit(self, runs: Sequence[RunFolder]) -> None:
        """Submit runs; on Slurm as one array.

        Raises:
            submitit.core.utils.FailedJobError: Slurm took none of them.
        """
        jobs = [TrainJob(run.path, uuid.uuid4().hex) for run in runs]
        if self.kind == 'slurm':
            executor = self._slurm_executor()
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
            for run, job, one in zip(runs, jobs, submitted, strict=True):
                run.submitted(one.job_id, 'slurm', job.ticket)
            return
        for run, job in zip(runs, jobs, strict=True):
            one = self.submitit.DebugExecutor(self.folder).submit(job) if self.kind == 'debug' else self._start(job)
            run.submitted(one.job_id, self.kind, job.ticket)
            self.runs.append(run)
            if self.kind == 'debug':
                one.exception()  # runs it; a failure is in the run's folder

    def interrupt(self) -> None:
        """Let what runs here save a checkpoint and end, or kill it after a while; what is on the cluster goes on."""
        under_way = [job for job in self.jobs.values() if not job.done()]
        for job in under_way:
            job.cancel()
        for job in under_way:
            while not job.done():
                time.sleep(0.2)
        for run in self.runs:
            run.excuse(run.submissions()[-1]['ticket'])  # it may have been too early for an attempt
            training = (run.attempts() or [{}])[-1].get('training')
            if training is not None:
                end_tree(training, run.is_locked, PATIENCE)

    def _slurm_executor(self) -> Any:
        cpus = self.slurm.get('cpus_per_task', 5 * max(1, self.gpus_per_run))
        executor = self.submitit.SlurmExecutor(self.folder, max_num_timeout=MOST_RESTARTS)
        parameters = {
            'job_name': f'{JOB_NAME}{self.folder.parent.name}', 'time': max(1, round(self.hours * 60)),
            'array_parallelism': self.parallel, 'signal_delay_s': 300, **self.slurm, 'cpus_per_task': cpus,
            'srun_args': [f'--cpus-per-task={cpus}'],  # since 22.05 srun does not ask for the job's CPUs by itself
            'additional_parameters': {'requeue': True}}
        if self.gpus_per_run:
            parameters['gpus_per_node'] = self.gpus_per_run
        try:
            executor.update_parameters(**parameters)
        except ValueError as error:
            raise SystemExit(f'--slurm: {error}') from error
        return executor

    def _start(self, job: TrainJob) -> Any:
        used = {gpu for other in self.jobs.values() if not other.done() for gpu in other.gpus}
        gpus = [gpu for gpu in self.gpus if gpu not in used][:self.gpus_per_run]
        job.gpus = ','.join(gpus)
        executor = self.submitit.LocalExecutor(self.folder)
        executor.update_parameters(timeout_min=A_WEEK, gpus_per_node=0)  # the job sets its own
        submitted = executor.submit(job)
        submitted.gpus = gpus
        self.jobs[submitted.job_id] = submitted
        return submitted


def run_sweep(
    folder: SweepFolder, executor: Executor, max_failures: int, accept_missing: bool, interval: float,
    show: Callable[[Decision, str], None],
) -> Decision:
    """Start runs until the sweep is complete, or cannot go on; return the last decision.

    Args:
        folder: What is swept.
        executor: Trains.
        max_failures: As in ``decide``, like ``accept_missing``.
        interval: Seconds between two looks at the folder.
        show: Called with the decision and a remark.

    Raises:
        SystemExit: Another process runs the sweep, or Slurm refuses the jobs.
    """
    refusals = 0
    with folder.locked():
        write_atomically(folder.path / 'patience.json', [max_failures, accept_missing])
        while True:
            queue = executor.in_queue()  # before the folders: what ends meanwhile has its result there
            decision = folder.look(queue, max_failures, accept_missing)
            active = [run for run in decision.runs if decision.look(run).active]
            show(decision, 'Slurm does not answer: waiting for it' if queue is None else '')
            if decision.complete or not (decision.start or active):
                return decision
            free = len(decision.start) if executor.kind == 'slurm' else max(0, executor.parallel - len(active))
            due = [folder.describe(run) for run in decision.start[:free]] if queue is not None else []
            if due:
                try:
                    executor.submit(due)
                    refusals = 0
                except executor.submitit.core.utils.FailedJobError as error:
                    refusals += 1
                    if refusals >= MOST_REFUSALS:
                        raise SystemExit(f'Slurm refuses the jobs: {error}') from error
            time.sleep(interval)


def visible_gpus() -> list[str]:
    """Return the GPUs that a process here may use, by the names in ``CUDA_VISIBLE_DEVICES``: 0, or GPU-UUID."""
    import torch  # slow to import

    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    return [str(i) for i in range(count)] if named is None else [name.strip() for name in named.split(',')][:count]


def slurm_queue(cancel_held: bool = False) -> set[str] | None:
    """Return the ids of this user's jobs that run or wait, none without Slurm, ``None`` where it does not answer.

    Array tasks are named as submitit does, JOB_TASK. squeue alone is asked: many clusters have no accounting. A job
    that Slurm holds because its launch failed would wait for ever, so it does not count.

    Args:
        cancel_held: Cancel those of them that are a sweep's: the runs will be submitted again.
    """
    if shutil.which('squeue') is None:
        return set()
    command = ['squeue', '-h', '-r', '-u', getpass.getuser(), '-o', '%i|%F_%K|%r|%j']
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return None
    lines = [line.split('|', 3) for line in done.stdout.splitlines()]
    held = [job for job, _, reason, name in lines if reason == HELD and name.startswith(JOB_NAME)]
    if held and cancel_held:
        subprocess.run(['scancel', *held], capture_output=True, timeout=60)
    return {name for job, array_task, _, _ in lines if job not in held for name in (job, array_task)}
