"""The job that trains one run to its end, and the executor that submits jobs: to a Slurm cluster, or here.

The standard library alone, but for submitit where it runs: jobs carry this module with them and start without torch.
"""

import getpass
import math
import os
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import mmseg_daft
from mmseg_daft import run_output as output
from mmseg_daft.files import mend_last_checkpoint, read_json
from mmseg_daft.sweep.folder import RunFolder

STOPPED = 75  # the exit status of a training that saved a checkpoint because of SIGNAL (CheckpointOnSignalHook)
SIGNAL = signal.SIGUSR2
PATIENCE = 240  # seconds for saving a checkpoint: less than Slurm gives before the end of a job
AGAIN = 5  # seconds between two signals: one that comes while a process starts is lost
LAST = 60  # seconds that killed processes get to be gone
PACKAGES = ('torch', 'mmsegmentation', 'onedl-mmsegmentation', 'mmpretrain', 'mmengine', 'onedl-mmengine', 'mmcv',
            'mmcv-lite', 'numpy', 'mmseg-daft')
JOB_NAME = 'sweep-'


@dataclass
class TrainJob:
    """Train the run of a folder, unless that is done; started again, it goes on from the last checkpoint.

    submitit calls it, and ``checkpoint`` when Slurm announces the end of the job, which then goes back into the queue.
    """

    folder: Path  # of the run, with its run.json
    ticket: str = ''  # which submission this is, as in RunFolder.submitted
    gpus: str | None = None  # for CUDA_VISIBLE_DEVICES; None leaves that as the job finds it
    process: subprocess.Popen | None = field(default=None, init=False)
    attempt: Path | None = field(default=None, init=False)

    def __call__(self) -> str:
        """Return how it ended: ``'done'``, ``'diverged'``, ``'stopped'`` or ``'busy'`` (another process trains it).

        Raises:
            RunFailedError: The training, or the evaluation after it, failed.
        """
        run = RunFolder(self.folder)
        if (lock := run.lock()) is None:
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
            _end_tree(self.process.pid, self._trains)
        if self.attempt is not None:
            RunFolder.end_attempt(self.attempt, 'stopped')

    def _trains(self) -> bool:
        with suppress(ChildProcessError):
            return os.waitpid(self.process.pid, os.WNOHANG)[0] == 0  # Popen.wait may be what was interrupted
        return False

    def _train(self, run: RunFolder, lock: int) -> str:
        described = run.description()
        iterations, metric = described['iterations'], described['metric']
        ending = described.get('final', f'iter_{iterations}.pth'), described.get('best', '')
        mend_last_checkpoint(run.work_dir)
        self.attempt = run.begin_attempt(_job_id(), output.last_saved_iteration(run.work_dir), self.ticket)
        if 'code' in described:
            run.note(self.attempt, revision=revision(Path(described['code'])))
        try:
            status = 0
            if output.final_checkpoint(run.work_dir, *ending) is None:
                goes_on = ['--resume'] * (run.work_dir / 'last_checkpoint').is_file()
                status = self._execute(run, [*described['command'], *goes_on], lock)
            checkpoint, metrics = output.final_checkpoint(run.work_dir, *ending), None
            if checkpoint and not described.get('tests'):
                metrics = output.final_metrics(run.work_dir, output.checkpoint_number(checkpoint), metric)
            tested = checkpoint is not None and metrics is None
            if tested:  # on images of its own, or the end came between the last iteration and its validation
                status = self._execute(run, [*described['test_command'], str(checkpoint)], lock)
                with suppress(FileNotFoundError):
                    metrics = output.test_metrics(run.path / 'test', metric)
        except KeyboardInterrupt:
            run.end_attempt(self.attempt, 'stopped')
            raise
        except Exception as error:
            run.end_attempt(self.attempt, 'failed', error=str(error))
            raise
        mark = read_json(run.work_dir / 'diverged.json')  # of DivergenceHook
        if mark or (checkpoint and metrics and not math.isfinite(metrics[metric])):
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
                iteration=mark['iteration'] if mark else iterations, metrics=metrics if outcome == 'done' else {},
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
                _ask_tree(self.process.pid)  # it saves, ends, and gives the lock back
                raise
        return self.process.returncode


def revision(code: Path) -> str:
    """Return which code it is: the commit of a checkout, with a + where files differ from it, or the release."""
    git = ['git', '-C', str(code)]
    with suppress(OSError, subprocess.CalledProcessError):
        # A package that is installed below another repository is not a file of that repository.
        if subprocess.run([*git, 'ls-files'], capture_output=True, check=True).stdout:
            words = [*git, 'describe', '--always', '--abbrev=12', '--exclude=*', '--dirty=+']
            return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    release = _versions().get('mmseg-daft')
    return f'mmseg-daft {release}' if release else ''


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _job_id() -> str:
    if os.environ.get('SUBMITIT_EXECUTOR') == 'slurm':  # else these are of an allocation in which `run` was started
        if 'SLURM_ARRAY_JOB_ID' in os.environ:
            return '{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}'.format_map(os.environ)
        return os.environ['SLURM_JOB_ID']
    return f'process {os.getpid()} since {time.time():.3f}'


def _tree(pid: int) -> list[int]:
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


def _ask_tree(pid: int) -> None:
    """Send ``SIGNAL`` to those of a tree that handle it or hold it back; the others would die of it."""
    for one in _tree(pid):
        with suppress(OSError, ValueError):
            masks = [int(line.split()[1], 16) for line in Path(f'/proc/{one}/status').read_text().splitlines()
                     if line.startswith(('SigCgt:', 'SigBlk:'))]
            if any(mask >> (SIGNAL - 1) & 1 for mask in masks):
                os.kill(one, SIGNAL)


def _end_tree(pid: int, alive: Callable[[], bool]) -> None:
    """Ask a tree again and again to end; kill what is left of it after some time."""
    deadline, next_time = time.monotonic() + PATIENCE, 0.0
    while alive() and time.monotonic() < deadline:
        if time.monotonic() >= next_time:
            _ask_tree(pid)
            next_time = time.monotonic() + AGAIN
        time.sleep(0.1)
    if alive():
        for one in reversed(_tree(pid)):
            with suppress(OSError):
                os.kill(one, signal.SIGKILL)
    while alive() and time.monotonic() < deadline + LAST:
        time.sleep(0.1)


@dataclass
class Executor:
    """Submits runs by submitit and tells which are under way; ``SystemExit`` where that, Slurm or a GPU is missing."""

    kind: str  # 'slurm', 'local' (processes here) or 'debug' (in this process, one after the other)
    folder: Path  # for submitit's files
    parallel: int  # runs at a time
    gpus_per_run: int
    hours: float = 24  # Slurm's limit of one job; a longer run is requeued
    slurm: dict[str, Any] = field(default_factory=dict)  # more parameters of SlurmExecutor, such as partition
    jobs: dict[str, Any] = field(default_factory=dict, init=False)
    tickets: dict[Path, str] = field(default_factory=dict, init=False)  # the last one of each run that trains here
    gpus: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        try:
            import cloudpickle
            import submitit
        except ImportError as error:
            raise SystemExit("Jobs are submitted by submitit, which cannot be imported here "
                             f"({error}): pip install 'mmseg-daft[sweep]'") from error
        if self.kind == 'slurm' and shutil.which('sbatch') is None:
            raise SystemExit('There is no sbatch here: run this on a login node of the cluster, or --executor local.')
        if 'job_name' in self.slurm:
            raise SystemExit(f'--slurm job_name: the sweep knows its jobs by their name, {self.job_name}. Drop it.')
        if self.kind == 'local' and self.gpus_per_run:
            self.gpus, wanted = _visible_gpus(), self.parallel * self.gpus_per_run
            if 0 < len(self.gpus) < wanted:
                raise SystemExit(f'{self.parallel} runs at a time on {self.gpus_per_run} GPUs each need {wanted}, and '
                                 f'{len(self.gpus)} are visible here: name a smaller --parallel, or plan with another '
                                 '--gpus-per-run (0: the CPU).')
        cloudpickle.register_pickle_by_value(mmseg_daft)  # jobs start without importing torch and mmseg
        self.submitit = submitit

    @property
    def job_name(self) -> str:
        """The name of the sweep's jobs on Slurm."""
        return f'{JOB_NAME}{self.folder.parent.name}'

    def in_queue(self) -> set[str] | None:
        """Return the ids of jobs that run or wait, ``None`` where Slurm does not answer: then nothing is known."""
        if self.kind == 'slurm':
            return slurm_queue(self.job_name)
        return {job for job, process in self.jobs.items() if not process.done()}

    def submit(self, runs: Sequence[RunFolder]) -> None:
        """Submit runs; on Slurm as one array, of which it takes all or none (submitit's ``FailedJobError``)."""
        jobs = [TrainJob(run.path, uuid.uuid4().hex, None if self.gpus_per_run else '') for run in runs]
        if self.kind != 'slurm':
            self.tickets.update({job.folder: job.ticket for job in jobs})
        started = self._start_array(jobs) if self.kind == 'slurm' else map(self._start, jobs)
        for run, job, one in zip(runs, jobs, started, strict=True):
            run.submitted(one.job_id, self.kind, job.ticket)
            if self.kind == 'debug':
                one.exception()  # runs it; a failure is in the run's folder

    def interrupt(self) -> None:
        """Let what runs here save a checkpoint and end, or kill it after a while; what is on the cluster goes on."""
        under_way = [job for job in self.jobs.values() if not job.done()]
        for job in under_way:
            job.cancel()
        for job in under_way:
            job.wait()
        for path, ticket in self.tickets.items():
            run = RunFolder(path)
            run.excuse(ticket)  # it may have been too early for an attempt
            training = (run.attempts() or [{}])[-1].get('training')
            if training is not None:
                _end_tree(training, run.is_locked)

    def _start_array(self, jobs: list[TrainJob]) -> list[Any]:
        cpus = self.slurm.get('cpus_per_task', 5 * max(1, self.gpus_per_run))
        executor = self.submitit.SlurmExecutor(self.folder, max_num_timeout=100)
        lines = {key: [value] for key in ('setup', 'teardown') if isinstance(value := self.slurm.get(key), str)}
        srun_args, more = self.slurm.get('srun_args', []), self.slurm.get('additional_parameters', {})
        try:
            srun_args = shlex.split(srun_args) if isinstance(srun_args, str) else srun_args
            parameters = {
                'job_name': self.job_name, 'time': max(1, round(self.hours * 60)),
                'array_parallelism': self.parallel, 'signal_delay_s': 300, **self.slurm, **lines, 'cpus_per_task': cpus,
                # Since 22.05 srun does not ask for the job's CPUs by itself.
                'srun_args': [f'--cpus-per-task={cpus}', *srun_args],
                'additional_parameters': {**more, 'requeue': True}}
            if self.gpus_per_run:
                parameters['gpus_per_node'] = self.gpus_per_run
            executor.update_parameters(**parameters)
        except (TypeError, ValueError) as error:
            raise SystemExit(f'--slurm: {error}') from error
        with executor.batch():
            return [executor.submit(job) for job in jobs]

    def _start(self, job: TrainJob) -> Any:
        if self.kind == 'debug':
            return self.submitit.DebugExecutor(self.folder).submit(job)
        used = {gpu for other in self.jobs.values() if not other.done() for gpu in other.gpus}
        gpus = [gpu for gpu in self.gpus if gpu not in used][:self.gpus_per_run]
        job.gpus = ','.join(gpus)
        executor = self.submitit.LocalExecutor(self.folder)
        executor.update_parameters(timeout_min=7 * 24 * 60, gpus_per_node=0)  # the job sets its own
        submitted = executor.submit(job)
        submitted.gpus = gpus
        self.jobs[submitted.job_id] = submitted
        return submitted


def _visible_gpus() -> list[str]:
    """Return the GPUs that a process here may use, by the names in ``CUDA_VISIBLE_DEVICES``: 0, or GPU-UUID."""
    import torch  # slow to import

    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    return [str(i) for i in range(count)] if named is None else [name.strip() for name in named.split(',')][:count]


def slurm_queue(job_name: str = '') -> set[str] | None:
    """Return the ids of this user's jobs that run or wait, none without Slurm, ``None`` where it does not answer.

    Array tasks are named as submitit does, JOB_TASK. squeue alone is asked: many clusters have no accounting. A job
    that Slurm holds because its launch failed would wait for ever, so a sweep's does not count; those with ``job_name``
    are cancelled, and the runs will be submitted again.
    """
    if shutil.which('squeue') is None:
        return set()
    command = ['squeue', '-h', '-r', '-u', getpass.getuser(), '-o', '%i|%F_%K|%r|%j']
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    lines = [line.split('|', 3) for line in done.stdout.splitlines()]
    held = {job: name for job, _, reason, name in lines
            if reason == 'launch failed requeued held' and name.startswith(JOB_NAME)}
    if ours := [job for job, name in held.items() if name == job_name]:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(['scancel', *ours], capture_output=True, timeout=60)
    return {name for job, array_task, _, _ in lines if job not in held for name in (job, array_task)}
