"""Where runs are trained: on a Slurm cluster, or here; by submitit."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmseg_daft
from mmseg_daft.sweep.job import PATIENCE, SIGNAL, TrainJob
from mmseg_daft.sweep.process_tree import ask_until_it_ends
from mmseg_daft.sweep.run_folder import RunFolder

A_WEEK = 7 * 24 * 60
MOST_RESTARTS = 100
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
    """

    kind: str
    folder: Path
    parallel: int
    gpus_per_run: int
    hours: float = 24
    slurm: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Any] = field(default_factory=dict, init=False)
    places: list[RunFolder] = field(default_factory=list, init=False)
    gpus: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        try:
            import cloudpickle
            import submitit
        except ModuleNotFoundError as error:
            raise SystemExit(f"{error.name} is not installed: pip install -e '.[sweep]'") from error
        if self.kind == 'slurm' and shutil.which('sbatch') is None:
            raise SystemExit('There is no sbatch here: run this on a login node of the cluster, or --executor local.')
        if self.kind == 'local' and self.gpus_per_run:
            self.gpus, wanted = visible_gpus(), self.parallel * self.gpus_per_run
            if 0 < len(self.gpus) < wanted:
                raise SystemExit(f'{self.parallel} runs at a time on {self.gpus_per_run} GPUs each need {wanted}, and '
                                 f'{len(self.gpus)} are visible here: name a smaller --parallel, or plan with another '
                                 '--gpus-per-run (0: the CPU).')
        cloudpickle.register_pickle_by_value(mmseg_daft)  # jobs start without importing mmseg
        self.submitit = submitit

    def in_queue(self) -> set[str] | None:
        """Return the ids of jobs that run or wait, or None where Slurm does not answer: then nothing is known."""
        if self.kind == 'slurm':
            return slurm_queue(cancel_held=True)
        return {job for job, process in self.jobs.items() if not process.done()}

    def free(self, active: int) -> int:
        """Return how many runs can be submitted now: Slurm has its own queue."""
        return 1_000 if self.kind == 'slurm' else max(0, self.parallel - active)

    def submit(self, places: Sequence[RunFolder]) -> None:
        """Submit runs; on Slurm as one array.

        Raises:
            submitit.core.utils.FailedJobError: Slurm took none of them.
        """
        jobs = [TrainJob(place.path, uuid.uuid4().hex) for place in places]
        if self.kind == 'slurm':
            self._submit_array(places, jobs)
        else:
            for place, job in zip(places, jobs, strict=True):
                self._submit_here(place, job)

    def interrupt(self) -> None:
        """Let what runs here save a checkpoint and end, or kill it after a while; what is on the cluster goes on."""
        under_way = [job for job in self.jobs.values() if not job.done()]
        for job in under_way:
            job.cancel()
        for job in under_way:
            while not job.done():
                time.sleep(0.2)
        for place in self.places:
            place.excuse(place.submissions()[-1]['ticket'])  # it may have been too early for an attempt
            training = (place.attempts() or [{}])[-1].get('training')
            if training is not None:
                ask_until_it_ends(training, SIGNAL, place.is_locked, PATIENCE)

    def _submit_array(self, places: Sequence[RunFolder], jobs: list[TrainJob]) -> None:
        cpus = int(self.slurm.get('cpus_per_task', 5 * max(1, self.gpus_per_run)))
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
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
        for place, job, one in zip(places, jobs, submitted, strict=True):
            place.submitted(one.job_id, 'slurm', job.ticket)

    def _submit_here(self, place: RunFolder, job: TrainJob) -> None:
        if self.kind == 'debug':
            submitted = self.submitit.DebugExecutor(self.folder).submit(job)
            self.places.append(place)
            place.submitted(submitted.job_id, 'debug', job.ticket)
            submitted.exception()  # runs it; a failure is in the run's folder
            return
        used = {gpu for other in self.jobs.values() if not other.done() for gpu in other.gpus}
        gpus = [gpu for gpu in self.gpus if gpu not in used][:self.gpus_per_run]
        job.gpus = ','.join(gpus)
        executor = self.submitit.LocalExecutor(self.folder)
        executor.update_parameters(timeout_min=A_WEEK, gpus_per_node=0)  # the job sets its own
        submitted = executor.submit(job)
        submitted.gpus = gpus
        self.jobs[submitted.job_id] = submitted
        self.places.append(place)
        place.submitted(submitted.job_id, 'local', job.ticket)


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that a process here may use, as of ``CUDA_VISIBLE_DEVICES``: 0, or GPU-UUID."""
    import torch  # slow to import

    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    return [str(i) for i in range(count)] if named is None else [name.strip() for name in named.split(',')][:count]


def known_queue() -> set[str] | None:
    """Return what the queue of this machine's cluster holds, nothing without one; None where Slurm does not answer."""
    return slurm_queue() if shutil.which('squeue') else set()


def slurm_queue(cancel_held: bool = False) -> set[str] | None:
    """Return the ids of this user's jobs that run or wait, or None where Slurm does not answer.

    Array tasks are named as submitit does, JOB_TASK. squeue alone is asked: many clusters have no accounting. A job
    that Slurm holds because its launch failed would wait for ever, so it does not count.

    Args:
        cancel_held: Cancel those of them that are a sweep's: the runs will be submitted anew.
    """
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
