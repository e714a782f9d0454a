"""The launch scripts on a real Slurm: ranks, fake GPUs, side by side, errors, requeue and resume."""

import re
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slow
TOOLS = Path(__file__).parents[2] / 'tools'
ENDED = ('COMPLETED', 'FAILED', 'TIMEOUT', 'CANCELLED', 'NODE_FAIL')


def start(cluster, *words, cwd=None, **env):
    return subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd,
                            env=dict(cluster.env, **env))


def finish(process, code=0):
    output = process.communicate(timeout=900)[0]
    assert (process.returncode == 0) == (code == 0), output[-4000:]
    return output


def weights(path):
    return torch.load(path)['state_dict']


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.fixture(scope='module')
def spy(tmp_path_factory):
    """An interpreter that notes what Slurm gave to each task, and lets rank 1 fail on demand."""
    path = tmp_path_factory.mktemp('spy') / 'python'
    path.write_text('#!/bin/bash\n'
                    'echo "task $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME, GPUs $CUDA_VISIBLE_DEVICES"\n'
                    '[ "${FAILING_RANK:-}" != "$SLURM_PROCID" ] || { sleep 5; exit 7; }\n'
                    'exec "$REAL_PYTHON" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope='module')
def undisturbed(cluster, config, spy, tmp_path_factory):
    """A run of two tasks from a folder that is not the repository, into one whose name wants quoting."""
    folder = tmp_path_factory.mktemp('elsewhere')
    work_dir = folder / 'with space'
    output = finish(start(
        cluster, TOOLS / 'slurm_train.sh', 'test', 'a job', config, '--work-dir', work_dir, cwd=folder, GPUS='2',
        SRUN_ARGS='--nodes=1 --comment="two words"', PYTHON=str(spy), REAL_PYTHON=cluster.env['PYTHON']))
    return work_dir, output


def test_two_tasks_train_with_their_own_gpus(undisturbed):
    work_dir, output = undisturbed
    for rank in (0, 1):
        assert re.search(rf'task {rank} of 2 on node\d, GPUs 0,1\n', output)
    # Both ranks took part: the pass is over all 7 images, and a batch is of 4.
    assert '7 images' in output and 'EFFECTIVE BATCH' not in output
    assert (work_dir / 'iter_12.pth').is_file()


def test_the_checkpoint_is_tested_on_two_nodes(cluster, config, undisturbed, tmp_path):
    """The rendezvous comes from Slurm: node1 is a name that only Slurm knows."""
    work_dir, trained = undisturbed
    output = finish(start(cluster, TOOLS / 'slurm_test.sh', 'test', 'job', config, work_dir / 'iter_12.pth',
                          '--work-dir', tmp_path, GPUS='2', GPUS_PER_NODE='1', CPUS_PER_TASK='1'))
    # One rank validates with its own running statistics in training; in a test all ranks load rank 0's.
    assert re.search(r'mIoU: [\d.]+', output) and re.search(r'mIoU: [\d.]+', trained)


def test_two_jobs_on_one_node_do_not_meet(cluster, config, undisturbed, tmp_path):
    """MMEngine's fixed port lets ranks of one job join the other's, with wrong results or a hang."""
    jobs = [start(cluster, TOOLS / 'slurm_train.sh', 'test', f'job{seed}', config, '--work-dir', tmp_path / str(seed),
                  '--cfg-options', f'randomness.seed={seed}', GPUS='2', SRUN_ARGS='-w node1') for seed in (0, 1)]
    for job in jobs:
        finish(job)
    zero, one = (weights(tmp_path / str(seed) / 'iter_12.pth') for seed in (0, 1))
    assert same(zero, weights(undisturbed[0] / 'iter_12.pth')) and not same(zero, one)


def test_a_failing_rank_ends_the_others(cluster, config, spy, tmp_path):
    output = finish(start(
        cluster, TOOLS / 'slurm_train.sh', 'test', 'job', config, '--work-dir', tmp_path, GPUS='2', FAILING_RANK='1',
        PYTHON=str(spy), REAL_PYTHON=cluster.env['PYTHON']), code=7)
    assert 'task 1: Exited with exit code 7' in output
    # rank 0 alone would wait for 30 minutes, longer than finish does
    assert not list(tmp_path.glob('*.pth'))


def test_a_bad_partition_and_missing_arguments_are_said(cluster, config):
    assert 'invalid partition' in finish(start(cluster, TOOLS / 'slurm_train.sh', 'nowhere', 'job', config), code=1)
    for script, arguments in (('slurm_train', 2), ('slurm_test', 3), ('dist_train', 1), ('dist_test', 2),
                              ('slurm_requeue', 0)):
        output = finish(start(cluster, TOOLS / f'{script}.sh', *['x'] * arguments), code=2)
        assert f'tools/{script}.sh' in output and 'CONFIG' in output


def submit(cluster, folder, config, *options, **env):
    words = ['sbatch', '--parsable', '-p', 'test', '--ntasks-per-node=2', '--gres=gpu:2', '--cpus-per-task=1',
             f'--output={folder}/%j.out', *options, TOOLS / 'slurm_requeue.sh', config, '--work-dir', folder / 'run']
    return finish(start(cluster, *words, **env)).strip()


def ended(cluster, job):
    cluster.wait_for('the end', lambda: cluster.job(job)['JobState'] in ENDED, seconds=900)
    return cluster.job(job)


def restarted_or_ended(cluster, job, restarts):
    state = cluster.job(job)
    return state['JobState'] in ENDED or int(state['Restarts']) >= restarts


def test_before_its_time_limit_a_job_saves_requeues_and_ends_as_undisturbed(cluster, config, undisturbed, tmp_path):
    """A limit of two minutes; asked to signal 60 s before, Slurm does so 60 to 90 s before.

    Where this machine is slow, the restarted run meets the limit again.
    """
    job = submit(cluster, tmp_path, config, '--time=2', '--signal=B:USR2@60', SECONDS_PER_ITERATION='7')
    for restarts in range(1, 5):
        cluster.wait_for('requeue or end', partial(restarted_or_ended, cluster, job, restarts), seconds=900)
        if cluster.job(job)['JobState'] in ENDED:
            break
        cluster.hurry(job)
    state, log = cluster.job(job), (tmp_path / f'{job}.out').read_text()
    restarts = int(state['Restarts'])
    assert state['JobState'] == 'COMPLETED' and 1 <= restarts <= 4, log[-4000:]
    stops = [int(iteration) for iteration in re.findall(r'Checkpoint after iteration (\d+) on', log)]
    assert len(stops) == restarts and sorted(set(stops)) == stops
    assert all(f'resumed epoch: 0, iter: {stop}' in log for stop in stops)
    assert 'DataLoader worker' not in log  # the signal reached the workers, too, and they live
    assert log.count('layers found') == 1 and 'done before this run was resumed' in log
    assert same(weights(tmp_path / 'run' / 'iter_12.pth'), weights(undisturbed[0] / 'iter_12.pth'))
    assert not (tmp_path / 'run' / 'on_signal.pth').exists()


def test_a_job_that_is_killed_and_requeued_ends_as_undisturbed(cluster, config, undisturbed, tmp_path):
    job = submit(cluster, tmp_path, config, SECONDS_PER_ITERATION='3')
    note = tmp_path / 'run' / 'last_checkpoint'  # written in place, and then an iteration of 3 seconds follows
    cluster.wait_for('a checkpoint', lambda: note.exists() and note.read_text().endswith('iter_2.pth'))
    cluster.run('scontrol', 'requeue', job)
    cluster.hurry(job)
    state, log = ended(cluster, job), (tmp_path / f'{job}.out').read_text()
    assert state['JobState'] == 'COMPLETED' and 'resumed epoch: 0, iter: ' in log, log[-4000:]
    assert same(weights(tmp_path / 'run' / 'iter_12.pth'), weights(undisturbed[0] / 'iter_12.pth'))


def test_a_run_that_fails_of_itself_is_not_requeued(cluster, config, tmp_path, spy):
    job = submit(cluster, tmp_path, config, FAILING_RANK='0', PYTHON=str(spy), REAL_PYTHON=cluster.env['PYTHON'])
    state = ended(cluster, job)
    assert (state['JobState'], state['Restarts']) == ('FAILED', '0')


def test_nothing_is_left_of_a_cluster(cluster, tmp_path_factory):
    """One that is taken down while a job runs whose process left its group."""
    with tempfile.TemporaryDirectory(prefix='slurm.', ignore_cleanup_errors=True) as folder:
        with SlurmCluster(Path(folder) / 'c') as other:
            other.run('sbatch', f'--output={folder}/%j.out', '--wrap', f'setsid sleep 321 & touch {folder}/up; wait')
            other.wait_for('the job', lambda: Path(folder, 'up').exists())
            daemons = [*other.daemons.values()]
        assert all(daemon.poll() is not None for daemon in daemons)
        deadline = time.monotonic() + 120  # a process that was killed may take a while to go
        while left := [path for path in Path('/proc').glob('[0-9]*') if names(path, folder)]:
            assert time.monotonic() < deadline, left


def names(process, folder):
    """Whether a process lives and has the folder in its environment."""
    try:
        alive = (process / 'status').read_text().split('State:\t')[1][0] not in 'ZX'
        return alive and folder.encode() in (process / 'environ').read_bytes()
    except OSError:
        return False

