"""The whole two-step sweep on a real Slurm: real trainings, arrays, `run` killed and the controller restarted."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from support.sweep_runs import write_methods

from mmseg_daft.sweep.folder import RunFolder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def command(*words):
    return [sys.executable, '-m', 'mmseg_daft', 'sweep', *map(str, words)]


def results(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob('runs/*/result.json')}


@pytest.fixture
def start(cluster, tmp_path):
    """Start a subcommand; what still runs at the end of the test is ended."""
    processes = []

    def run(*words):
        log = (tmp_path / f'sweep{len(processes)}.log').open('w')
        processes.append(subprocess.Popen(command(*words), env=cluster.env, stdout=log, stderr=subprocess.STDOUT))
        return processes[-1], Path(log.name)
    yield run
    for process in processes:
        process.kill()
        process.wait()


def test_killed_in_its_middle_the_sweep_ends_with_one_result_per_run(cluster, shapes_root, tmp_path, start):
    configs = write_methods(tmp_path, shapes_root, ('ft', 'daft'))
    folder = tmp_path / 'sweep'
    process, log = start(
        'plan', folder, '--method', f'daft={configs["daft"]}', '--method', f'ft={configs["ft"]}',
        '--grid', 'daft.1=0.1,0.01', '--grid', 'daft.2=0.1', '--grid', 'ft.1=1e30,0.1', '--report-seeds', '0',
        '--held-out', '0.3', '--gpus-per-run', '1')
    assert process.wait(900) == 0, log.read_text()
    assert '7 runs of 2 iterations' in log.read_text()

    run = ('run', folder, '--executor', 'slurm', '--parallel', '2', '--interval', '1',
           '--slurm', 'partition=test', 'cpus_per_task=1')
    process, log = start(*run)
    cluster.wait_for('an array', lambda: len(list(folder.glob('runs/*/submissions'))) >= 4, 900)
    cluster.wait_for('a training', lambda: list(folder.glob('runs/*/attempts/*.json')), 900)
    process.kill()  # `run`, without a word
    cluster.stop('slurmctld')
    process, log = start(*run)
    cluster.wait_for('a result without the controller', lambda: results(folder), 900)
    cluster.wait_for('the screen', lambda: 'Slurm does not answer' in log.read_text(), 900)
    assert process.poll() is None
    cluster.start_controller()
    cluster.wait_for('the end', lambda: process.poll() is not None, 900)
    assert process.returncode == 0, log.read_text()[-3000:]

    found = results(folder)
    states = {name: 'diverged' if result['diverged'] else 'done' for name, result in found.items()}
    assert len(states) == 7 and [n for n, s in states.items() if s == 'diverged'] == [
        'ft_step1_backbone-1e+30_head-1e+30_seed-0']
    step1 = {name: found[name]['value'] for name in found if name.startswith('daft_step1')}
    won = max(sorted(step1, reverse=True), key=step1.get).split('_')[2]
    assert all(won in name for name in found if name.startswith(('daft_step2', 'daft_report')))
    for attempts in folder.glob('runs/*/attempts'):
        assert [json.loads(path.read_text())['outcome'] for path in attempts.iterdir()] in (['done'], ['diverged'])
    jobs = [json.loads(path.read_text())['job'] for path in folder.glob('runs/*_step1_*/submissions/*')]
    assert all('_' in job for job in jobs)  # arrays

    process, log = start('collect', folder)
    assert process.wait(900) == 0, log.read_text()
    rows = list(csv.DictReader((folder / 'results' / 'runs.csv').open()))
    assert {row['name']: row['value'] for row in rows} == {
        name: '' if result['value'] is None else str(result['value']) for name, result in found.items()}
    reported = {row['method']: float(row['value']) for row in rows if row['stage'] == 'report'}
    table = (folder / 'results' / 'table.md').read_text()
    assert f'| DAFT | {reported["daft"]:.2f} | 1 |' in table and f'| FT | {reported["ft"]:.2f} | 1 |' in table
    assert cv2.imread(str(folder / 'results' / 'curves.png')).size
    assert not (folder / 'results' / 'missing.txt').read_text()


def test_a_partition_that_is_not_there_ends_the_sweep_with_slurm_s_words(cluster, tmp_path):
    """No training: the folder of a sweep is enough."""
    folder = tmp_path / 'sweep'
    folder.mkdir()
    method = dict(steps=[dict(rates=['backbone_lr', 'head_lr'], grid=[0.1])], fixed={}, starts_from=None)
    (folder / 'sweep.json').write_text(json.dumps(dict(
        sweep=dict(methods=dict(ft=method), select_seeds=[0], report_seeds=[0], metric='mIoU', iterations=2),
        configs=dict(ft='x.py'), held_out=0.1, held_out_by='', held_out_seed=0, options=[], gpus_per_run=1,
        revision='')))
    done = subprocess.run(command('run', folder, '--executor', 'slurm', '--interval', '0.1', '--slurm',
                                  'partition=nowhere'), env=cluster.env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1 and 'invalid partition' in done.stdout + done.stderr
    assert 'Traceback' not in done.stderr


def test_the_signal_before_the_limit_reaches_the_training_and_the_job_is_requeued(cluster, tmp_path):
    """submitit's part, with a program in place of a training: the first start waits for the signal, the second ends."""
    place = RunFolder(tmp_path / 'run')
    program = (
        'import json, os, pathlib, signal, sys, time\n'
        f'work = pathlib.Path({str(place.work_dir)!r})\n'
        '(work / "1" / "vis_data").mkdir(parents=True, exist_ok=True)\n'
        'if not (work / "iter_1.pth").exists():\n'
        '    def stop(*_):\n'
        '        (work / "iter_1.pth").touch(); sys.exit(75)\n'
        '    signal.signal(signal.SIGUSR2, stop)\n'
        '    (work / "up").touch(); time.sleep(1800)\n'
        '(work / "iter_2.pth").write_bytes(b"PK\\5\\6" + bytes(18))\n'
        '(work / "last_checkpoint").write_text(str(work / "iter_2.pth"))\n'
        '(work / "1" / "vis_data" / "scalars.json").write_text(json.dumps(dict(mIoU=50.0, step=2)))\n')
    place.describe(dict(iterations=2, metric='mIoU', command=[sys.executable, '-c', program], test_command=[]))
    script = (
        'from pathlib import Path\n'
        'from mmseg_daft.sweep.job import Executor; from mmseg_daft.sweep.folder import RunFolder\n'
        f'executor = Executor("slurm", Path({str(tmp_path / "jobs")!r}), 1, 0, slurm=dict(partition="test"))\n'
        f'executor.submit([RunFolder(Path({str(place.path)!r}))])\n')
    subprocess.run([sys.executable, '-c', script], cwd=ROOT, env=cluster.env, check=True, timeout=900)
    job = place.job()
    cluster.wait_for('the training', (place.work_dir / 'up').exists)
    assert place.seen().active
    cluster.run('scancel', '--signal=USR2', job)  # to every process of its step, as --signal does before the limit
    cluster.wait_for('the requeue', lambda: cluster.job(job)['Restarts'] == '1')
    cluster.hurry(job)
    cluster.wait_for('the result', place.result)
    assert place.result()['value'] == 50
    attempts = place.attempts()
    assert [a['outcome'] for a in attempts] == ['stopped', 'done'] and {a['job'] for a in attempts} == {job}
