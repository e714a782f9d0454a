"""The job of one run, with programs in place of trainings that leave what mmseg's would."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import cloudpickle
import pytest

import mmseg_daft
from mmseg_daft.run_output import RunFailedError
from mmseg_daft.sweep.folder import RunFolder
from mmseg_daft.sweep.job import Executor, TrainJob

WRITE = '''
import json, os, pathlib, signal, sys, time
work = pathlib.Path({work!r})
(work / '1' / 'vis_data').mkdir(parents=True, exist_ok=True)
def log(**record):
    with open(work / '1' / 'vis_data' / 'scalars.json', 'a') as file: file.write(json.dumps(record) + '\\n')
def save(iteration):
    (work / f'iter_{{iteration}}.pth').write_bytes(b'PK\\5\\6' + bytes(18))
    (work / 'last_checkpoint').write_text(str(work / f'iter_{{iteration}}.pth'))
open(work / 'starts', 'a').write('x')
'''


@pytest.fixture
def run(tmp_path):
    def make(program, test_program='sys.exit(3)', iterations=4):
        place = RunFolder(tmp_path / 'run')
        head = WRITE.format(work=str(place.work_dir))
        place.describe(dict(iterations=iterations, metric='mIoU', command=[sys.executable, '-c', head + program],
                            test_command=[sys.executable, '-c', head + test_program]))
        return place
    return make


DONE = 'log(loss=1.0, time=0.5, step=4); save(4); log(mIoU=61.5, aAcc=90.0, step=4)'


def test_a_run_is_trained_once(run):
    place = run(DONE)
    assert TrainJob(place.path)() == 'done' and TrainJob(place.path)() == 'done'
    result = place.result()
    assert (result['value'], result['diverged'], result['iteration']) == (61.5, False, 4)
    assert result['metrics']['aAcc'] == 90 and result['seconds_per_iteration'] == 0.5
    assert result['versions']['torch'] and result['checkpoint'].endswith('iter_4.pth')
    assert (place.work_dir / 'starts').read_text() == 'x' and [a['outcome'] for a in place.attempts()] == ['done']
    assert not place.is_locked() and not result['tested']


def test_a_run_is_resumed_only_where_it_has_a_checkpoint(run):
    """Else MMEngine would resume what the config starts from."""
    place = run("open(work / 'words', 'a').write(' '.join(sys.argv[1:]) + ';')\n"
                "if len((work / 'starts').read_text()) == 2: save(2); sys.exit(75)\n"
                "if len((work / 'starts').read_text()) < 4: sys.exit(75)\n" + DONE)
    assert [TrainJob(place.path)() for _ in range(4)] == ['stopped', 'stopped', 'stopped', 'done']
    assert (place.work_dir / 'words').read_text() == ';;--resume;--resume;'


def test_the_code_that_trained_is_noted_with_each_start(run, tmp_path):
    """Not that of the plan: a checkout may be changed while a sweep goes on."""
    def git(*words):
        return subprocess.run(['git', '-C', str(tmp_path / 'code'), *words], check=True, capture_output=True,
                              text=True).stdout.strip()

    (tmp_path / 'code').mkdir()
    git('init', '-q')
    (tmp_path / 'code' / 'code.py').touch()
    git('add', 'code.py')
    git('-c', 'user.name=x', '-c', 'user.email=x', 'commit', '-q', '-m', 'one')
    place = run("if len((work / 'starts').read_text()) == 1: save(2); sys.exit(75)\n" + DONE)
    place.describe(dict(place.description(), code=str(tmp_path / 'code')))
    one = git('rev-parse', '--short=12', 'HEAD')
    assert TrainJob(place.path)() == 'stopped'
    (tmp_path / 'code' / 'file').touch()
    git('add', 'file')
    assert TrainJob(place.path)() == 'done'
    assert [attempt['revision'] for attempt in place.attempts()] == [one, f'{one}+']
    assert place.result()['revision'] == f'{one}, {one}+'


def test_a_missing_validation_is_made_up_for(run):
    """The job was killed between the last checkpoint and its validation."""
    place = run('save(4)', "assert sys.argv[1].endswith('iter_4.pth'); out = pathlib.Path(work).parent / 'test' / '1';"
                           "out.mkdir(parents=True); (out / '1.json').write_text(json.dumps(dict(mIoU=12.5)))")
    assert TrainJob(place.path)() == 'done' and place.result()['value'] == 12.5
    assert place.result()['tested']


@pytest.mark.parametrize('program', ['sys.exit(5)', 'save(2)', 'save(4)'], ids=['status', 'too short', 'no metric'])
def test_what_fails_is_said_with_the_end_of_its_log(run, program):
    place = run("print('Bad luck', flush=True);" + program)
    with pytest.raises(RunFailedError, match='Bad luck'):
        TrainJob(place.path)()
    assert place.result() is None and place.seen().failures == 1


@pytest.mark.parametrize('program', [
    "(work / 'diverged.json').write_text(json.dumps(dict(iteration=3))); sys.exit(1)",
    "save(4); log(mIoU=float('nan'), step=4)"], ids=['loss', 'metric'])
def test_a_diverged_run_has_a_result(run, program):
    place = run(program)
    assert TrainJob(place.path)() == 'diverged'
    assert place.seen().diverged and place.seen().ended and place.result()['value'] is None


def test_two_jobs_do_not_train_the_same_run(run):
    place = run(DONE)
    lock = place.lock()
    assert TrainJob(place.path)() == 'busy' and place.seen().active
    os.close(lock)
    assert not place.seen().active


def wait_for(reached):
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


WITHOUT = """
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmseg_daft', 'mmseg', 'mmengine', 'torch'): raise ImportError(name)
sys.meta_path.insert(0, Without())
"""


def start(place, setup=''):
    """Start a job as submitit does, in a process that cannot import this package; it leaves the modules it imported."""
    cloudpickle.register_pickle_by_value(mmseg_daft)
    (place.path / 'job.pkl').write_bytes(cloudpickle.dumps(TrainJob(place.path)))
    return subprocess.Popen([sys.executable, '-c', 'import pickle, signal, sys\n'
                             f'{WITHOUT}\n'
                             f'job = pickle.load(open({str(place.path / "job.pkl")!r}, "rb"))\n{setup}\njob()\n'
                             f'open({str(place.path / "modules")!r}, "w").write("\\n".join(sys.modules))'])


STOPPABLE = """
signal.signal(signal.SIGUSR2, lambda *_: (save(2), sys.exit(75)))
(work / 'up.part').write_text(str(os.getpid()))
os.rename(work / 'up.part', work / 'up')
time.sleep(100)
"""


def test_a_job_carries_all_that_it_needs_but_the_standard_library(run):
    place = run(DONE)
    process = start(place)
    assert process.wait(300) == 0 and place.result()['value'] == 61.5
    modules = {name.partition('.')[0] for name in (place.path / 'modules').read_text().split()}
    assert 'cloudpickle' in modules  # it reads the pickle; the job itself imports none
    assert not modules & {'mmseg_daft', 'mmseg', 'mmengine', 'torch', 'numpy', 'submitit'}


def test_asked_to_stop_the_training_saves_first(run):
    place = run(STOPPABLE)
    process = start(place, 'signal.signal(signal.SIGUSR1, lambda *_: (job.stop(), sys.exit(9)))')
    wait_for((place.work_dir / 'up').exists)
    assert place.is_locked()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 9
    assert (place.work_dir / 'iter_2.pth').exists() and not place.is_locked()
    assert [a['outcome'] for a in place.attempts()] == ['stopped'] and place.seen().failures == 0


RANKS = """
import os, pathlib, signal, sys, time
rank, work = os.environ['RANK'], pathlib.Path(sys.argv[1])
def stop(*_):
    (work / f'saved-{rank}').touch()
    while not all((work / f'saved-{r}').exists() for r in (0, 1)): time.sleep(0.1)
    sys.exit(75)
if sys.argv[2] == 'save': signal.signal(signal.SIGUSR2, stop)
(work / f'up-{rank}').write_text(str(os.getpid()))
time.sleep(1000)
"""


@pytest.fixture
def ranks(run, tmp_path):
    """A run of two processes under the real torchrun; what is left of it at the end is killed."""
    def make(how):
        (tmp_path / 'ranks.py').write_text(RANKS)
        place = run('os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", "--standalone", '
                    f'"--nproc_per_node=2", {str(tmp_path / "ranks.py")!r}, str(work), {how!r}])')
        return place
    yield make
    for path in tmp_path.glob('run/train/up-*'):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def all_up(place):
    return len([*place.work_dir.glob('up-[01]')]) == 2


@pytest.mark.slow
def test_the_signal_reaches_every_rank_under_torchrun(ranks):
    place = ranks('save')
    process = start(place, 'signal.signal(signal.SIGUSR1, lambda *_: (job.stop(), sys.exit(9)))')
    wait_for(lambda: all_up(place))
    process.send_signal(signal.SIGUSR1)
    assert process.wait(600) == 9
    assert len([*place.work_dir.glob('saved-[01]')]) == 2 and not place.is_locked()
    assert [a['outcome'] for a in place.attempts()] == ['stopped']


@pytest.mark.slow
def test_ranks_that_do_not_listen_are_killed_after_a_while(ranks):
    place = ranks('ignore')
    process = start(place, 'job.stop.__func__.__globals__["PATIENCE"] = 1\n'
                           'signal.signal(signal.SIGUSR1, lambda *_: (job.stop(), sys.exit(9)))')
    wait_for(lambda: all_up(place))
    process.send_signal(signal.SIGUSR1)
    assert process.wait(600) == 9 and not place.is_locked()
    for rank in (0, 1):
        wait_for(lambda rank=rank: not is_alive(int((place.work_dir / f'up-{rank}').read_text())))


def is_alive(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except FileNotFoundError:
        return False


def test_a_training_whose_job_was_killed_keeps_the_lock(run):
    place = run(STOPPABLE)
    process = start(place)
    wait_for((place.work_dir / 'up').exists)
    process.kill()
    process.wait()
    assert place.seen().active and TrainJob(place.path)() == 'busy'
    os.kill(int((place.work_dir / 'up').read_text()), signal.SIGUSR2)
    wait_for(lambda: not place.is_locked())
    assert place.seen().failures == 1  # nobody noted how it ended


def test_another_run_in_the_same_folder_is_refused(run):
    place = run(DONE)
    described = json.loads((place.path / 'run.json').read_text())
    place.describe(described)
    moved = dict(described, command=['elsewhere/python'], directory='elsewhere')
    place.describe(moved)
    assert place.description() == moved
    with pytest.raises(SystemExit, match=r'differs in iterations\. Plan into another folder'):
        place.describe(dict(described, iterations=5))
    assert place.description() == moved


@pytest.mark.parametrize(('gpus', 'visible'), [(0, ''), (1, '3')])
def test_a_run_on_the_cpu_sees_no_gpu(gpus, visible, run, tmp_path, monkeypatch):
    """Here in this process; a job on Slurm carries the same."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    place = run("(work / 'gpus').write_text(os.environ['CUDA_VISIBLE_DEVICES']);" + DONE)
    Executor('debug', tmp_path / 'jobs', 1, gpus).submit([place])
    assert (place.work_dir / 'gpus').read_text() == visible and place.result()


@pytest.mark.parametrize('kind', ['local', 'debug'])
def test_what_fails_inside_of_an_allocation_has_failed_each_time(kind, run, tmp_path, monkeypatch):
    """All that `salloc` or `srun --pty` starts has the allocation's id: that is no job which Slurm has restarted."""
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    place, executor = run('sys.exit(5)'), Executor(kind, tmp_path / 'jobs', 1, 0)
    for _ in range(3):
        executor.submit([place])
        for job in executor.jobs.values():
            job.wait()
    assert place.failures() == 3
