"""tools/sweep.py without a cluster: what it refuses, what it freezes, and a sweep of real trainings on this machine."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation import IoUMetric
from rich.console import Console
from support.small_runs import DAFT_VOC, small
from support.sweep_runs import write_methods

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))

import sweep_configs  # noqa: E402

from mmseg_daft.sweep.command import parse_args  # noqa: E402
from mmseg_daft.sweep.decision import decide, decide_by_looking  # noqa: E402
from mmseg_daft.sweep.executor import Executor, slurm_queue  # noqa: E402
from mmseg_daft.sweep.plan import read_sweep  # noqa: E402
from mmseg_daft.sweep.protocol import Protocol, Step, protocols  # noqa: E402
from mmseg_daft.sweep.run_folder import RunFolder  # noqa: E402
from mmseg_daft.sweep.setup import Setup, describe, look  # noqa: E402
from mmseg_daft.sweep.sweep import Sweep  # noqa: E402
from mmseg_daft.sweep.write_results import write_results  # noqa: E402

VOC, CITYSCAPES, CAMVID = (name.replace('daft/daft', 'ft/ft') for name in (
    DAFT_VOC, 'daft/daft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py',
    'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'))
FT = Protocol((Step(('backbone_lr', 'head_lr'), (0.1,)),))


def sweep(*words, code=0, **options):
    done = subprocess.run([sys.executable, 'tools/sweep.py', *map(str, words)], capture_output=True, text=True,
                          cwd=ROOT, **options)
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    assert 'Traceback' not in done.stderr
    return done.stdout + done.stderr


def setup_of(config, **options):
    return Setup(Sweep({'ft': FT}, iterations=2), {'ft': str(config)}, **{
        'held_out': 0.3, 'held_out_by': '', 'held_out_seed': 0, **options})


def frozen(config, root, tmp_path, **options):
    cfg = small(config, tmp_path / 'unused', root)
    cfg.dump(tmp_path / 'ft.py')
    sweep_configs.freeze(setup_of(tmp_path / 'ft.py', **options), tmp_path / 'sweep')
    return [Config.fromfile(tmp_path / 'sweep' / 'configs' / f'ft-{name}.py', import_custom_modules=False)
            for name in ('select', 'report')]


def images(dataset):
    """What a data set of a frozen config reads, by mmseg itself."""
    leaves = [sweep_configs.DATASETS.build(dict(leaf, pipeline=[])) for leaf in sweep_configs.leaves(dataset)]
    return {Path(leaf.get_data_info(i)['img_path']) for leaf in leaves for i in range(len(leaf))}


@pytest.mark.parametrize(('config', 'root', 'held'), [
    (VOC, 'voc_root', 3 + 2), (CITYSCAPES, 'cityscapes_root', 2), (CAMVID, 'camvid_layout', 2)])
def test_selecting_runs_never_see_the_reported_images(config, root, held, tmp_path, request):
    root = request.getfixturevalue(root)
    select, report = frozen(config, root, tmp_path)
    whole = Config.fromfile(tmp_path / 'ft.py', import_custom_modules=False)
    train, selected = images(select.train_dataloader.dataset), images(select.val_dataloader.dataset)
    reported = images(whole.test_dataloader.dataset)
    assert train | selected == images(whole.train_dataloader.dataset) and not train & selected
    assert len(selected) == held and not reported & (train | selected)
    assert images(select.test_dataloader.dataset) == selected
    assert images(report.train_dataloader.dataset) == train | selected
    assert images(report.val_dataloader.dataset) == reported == images(report.test_dataloader.dataset)
    # The held-out images are evaluated as the reported ones are: whole, without augmentation.
    assert all(leaf.pipeline == whole.val_dataloader.dataset.pipeline
               for leaf in sweep_configs.leaves(select.val_dataloader.dataset))


def test_a_frozen_config_validates_at_its_end_and_carries_the_hooks(voc_root, tmp_path):
    cfg = small(VOC, tmp_path, voc_root)
    del cfg.default_hooks['divergence'], cfg.default_hooks['on_signal']
    cfg.train_cfg.val_interval = 1
    sweep_configs.prepare(setup_of('x', gpus_per_run=2), tmp_path, cfg)
    assert cfg.train_cfg.val_interval == 2 and cfg.train_dataloader.batch_size == 2
    assert {'DivergenceHook', 'CheckpointOnSignalHook'} <= {hook['type'] for hook in cfg.default_hooks.values()}
    with pytest.raises(SystemExit, match='cannot be shared by 3 GPUs'):
        sweep_configs.prepare(setup_of('x', gpus_per_run=3), tmp_path, cfg)


def test_statistics_are_shared_where_the_hook_can(monkeypatch, tmp_path):
    cfg = Config(dict(custom_hooks=[dict(type='BNConversionHook'), dict(type='BNTestModeHook')]))

    class Able:
        def __init__(self, cache_dir=None):
            pass

    class Unable:
        def __init__(self):
            pass

    monkeypatch.setattr(sweep_configs, 'BNConversionHook', Unable)
    sweep_configs.share_statistics(cfg, tmp_path)
    assert cfg.custom_hooks == [dict(type='BNConversionHook'), dict(type='BNTestModeHook')]
    monkeypatch.setattr(sweep_configs, 'BNConversionHook', Able)
    sweep_configs.share_statistics(cfg, tmp_path)
    assert cfg.custom_hooks == [dict(type='BNConversionHook', cache_dir=str(tmp_path)), dict(type='BNTestModeHook')]


@pytest.mark.parametrize(('change', 'message'), [
    ({'param_scheduler.0.eta_min': 1e-3}, 'ends at eta_min=0.001, above the rate 0.0001'),
    ({'optim_wrapper.constructor': 'Default'}, "are DAFTOptimWrapperConstructor's"),
    ({'train_cfg.max_iters': 3}, 'trains for 3 iterations, the others for 2')])
def test_what_cannot_be_swept_is_refused_before_anything_runs(change, message, voc_root, tmp_path):
    cfg = small(VOC, tmp_path, voc_root, **change)
    setup = Setup(Sweep({'ft': protocols()['ft']}, iterations=2), {'ft': 'x.py'}, 0.3, '', 0)
    with pytest.raises(SystemExit, match=message):
        sweep_configs.check(setup, 'ft', cfg)


@pytest.mark.parametrize('config', [VOC, CITYSCAPES, CAMVID])
def test_data_that_are_not_there_are_named(config, tmp_path):
    with pytest.raises(SystemExit, match=rf'Dataset in {tmp_path}/nowhere: it'):
        frozen(config, tmp_path / 'nowhere', tmp_path)


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    setup_of('x.py').save(tmp_path)
    setup_of('x.py', revision='later').save(tmp_path)
    assert Setup.load(tmp_path) == setup_of('x.py')
    with pytest.raises(SystemExit, match='another sweep: it differs in held_out'):
        setup_of('x.py', held_out=0.5).save(tmp_path)
    with pytest.raises(SystemExit, match='takes apart at spaces'):
        setup_of('x.py').save(tmp_path / 'a b')
    with pytest.raises(SystemExit, match='holds no sweep'):
        Setup.load(tmp_path / 'nowhere')


@pytest.mark.parametrize(('named', 'names'), [
    (None, ['0', '1']), ('3,5', ['3', '5']), ('GPU-a,GPU-b', ['GPU-a', 'GPU-b'])])
def test_runs_here_share_the_gpus_that_there_are(named, names, tmp_path, monkeypatch):
    """Each training has its own, by the name that it was given; nothing is invented, and none goes without."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if named is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', named)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(SystemExit, match=r'3 runs at a time on 1 GPUs each need 3, and 2 are visible here.*--parallel'):
        Executor('local', tmp_path / 'jobs', 3, 1)
    Executor('local', tmp_path / 'jobs', 3, 0)
    executor = Executor('local', tmp_path / 'jobs', 2, 1)
    places = [RunFolder(tmp_path / name) for name in 'ab']
    for place in places:
        program = ('import os, time\n'
                   f'open({str(place.path / "gpus")!r}, "w").write(os.environ["CUDA_VISIBLE_DEVICES"])\n'
                   f'while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.1)')
        place.describe(dict(iterations=1, metric='mIoU', test_command=[], command=[sys.executable, '-c', program]))
    try:
        executor.submit(places)
    finally:
        (tmp_path / 'go').touch()
    for job in executor.jobs.values():
        job.wait()
    assert sorted((place.path / 'gpus').read_text() for place in places) == names
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)  # a machine without: it trains on the CPU, as it says
    assert Executor('local', tmp_path / 'jobs', 3, 1).gpus == []


def test_another_spelling_of_the_interpreter_is_the_same_run_and_another_rate_is_not(tmp_path, monkeypatch):
    setup = setup_of('x.py', gpus_per_run=0, directory=str(tmp_path))
    run = decide(setup.sweep, {}).start[0]
    place = describe(setup, tmp_path, run)
    monkeypatch.setattr(sys, 'executable', '/another/python3')
    assert describe(setup, tmp_path, run).description()['command'][0] == '/another/python3'
    (place.path / 'run.json').write_text(json.dumps(dict(place.description(), head_lr=0.5)))
    with pytest.raises(SystemExit, match='differs in head_lr. Plan into another folder'):
        describe(setup, tmp_path, run)


def test_a_sweep_whose_directory_has_moved_goes_on_once_it_is_planned_there(tmp_path):
    gone = setup_of('x.py', directory=str(tmp_path / 'gone'))
    gone.save(tmp_path)
    run = decide(gone.sweep, {}).start[0]
    with pytest.raises(SystemExit, match='which is gone: give the plan command again'):
        describe(Setup.load(tmp_path), tmp_path, run)
    setup_of('x.py', directory=str(tmp_path)).save(tmp_path)
    assert describe(Setup.load(tmp_path), tmp_path, run).description()['directory'] == str(tmp_path)


def test_a_table_of_runs_trained_with_different_code_says_so(tmp_path):
    setup = setup_of('x.py', directory=str(tmp_path), revision='planned')
    setup.save(tmp_path)
    codes = {'ft_step1': 'aaa', 'ft_report': 'aaa'}
    for mixed in (False, True):
        while runs := decide_by_looking(setup.sweep, lambda run: look(tmp_path, run, set()))[0].start:
            for run in runs:
                describe(setup, tmp_path, run).write_result(dict(
                    value=1.0, diverged=False, iteration=2, seconds=1, seconds_per_iteration=1, versions={},
                    revision=codes[f'ft_{run.stage}']))
        write_results(setup, tmp_path, Console(quiet=True))
        table, rows = ((tmp_path / 'results' / name).read_text() for name in ('table.md', 'runs.csv'))
        assert 'planned' not in rows
        assert ('**Mixed code**: these runs were trained with aaa, bbb;' in table) == mixed == ('bbb' in rows)
        for path in tmp_path.glob('runs/ft_report*/result.json'):
            path.unlink()
        codes['ft_report'] = 'bbb'


def test_what_slurm_holds_after_a_failed_launch_is_submitted_anew(tmp_path, monkeypatch):
    """By programs in Slurm's place: a launch that fails is hard to come by."""
    lines = '1_0|1_0|None|sweep-x', '2|2_N/A|launch failed requeued held|sweep-x', \
            '3|3_N/A|launch failed requeued held|others', '4_7|4_7|BeginTime|sweep-x'
    for name, text in (('squeue', '\n'.join(f'echo "{line}"' for line in lines)),
                       ('scancel', f'echo "$@" >> {tmp_path}/cancelled')):
        (tmp_path / name).write_text(f'#!/bin/sh\n{text}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    assert {'1_0', '4_7', '3'} == {job for job in slurm_queue() if 'N/A' not in job}
    assert not (tmp_path / 'cancelled').exists()
    slurm_queue(cancel_held=True)
    assert (tmp_path / 'cancelled').read_text() == '2\n'
    (tmp_path / 'squeue').write_text('#!/bin/sh\nexit 1\n')
    assert slurm_queue() is None


def test_jobs_that_die_before_they_begin_are_not_submitted_for_ever(tmp_path):
    """As where a node's Python cannot load them; no training, the folder of a sweep is enough."""
    setup_of('x.py', gpus_per_run=0, directory=str(tmp_path)).save(tmp_path / 'sweep')
    (tmp_path / 'sitecustomize.py').write_text('import os\n'
                                               'if "SUBMITIT_LOCAL_JOB_ID" in os.environ: os._exit(3)\n')
    output = sweep('run', tmp_path / 'sweep', '--interval', 0.1, '--max-failures', 1, code=1,
                   env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])))
    assert 'failed more than 1 times: ft_step1' in output
    assert len(list(tmp_path.glob('sweep/runs/*/submissions/*'))) == 2


@pytest.mark.parametrize('waiting', [False, True])
def test_slurm_s_silence_is_told_of_a_sweep_that_waits_for_it(waiting, tmp_path, monkeypatch):
    """The program is there, its cluster is not."""
    (tmp_path / 'squeue').write_text('#!/bin/sh\nexit 1\n')
    (tmp_path / 'squeue').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    setup = setup_of('x.py', directory=str(tmp_path))
    setup.save(tmp_path)
    for run in decide(setup.sweep, {}).start:
        place = describe(setup, tmp_path, run)
        if waiting:
            place.submitted('1', 'slurm', 'ticket')
    assert ('Slurm does not answer' in sweep('status', tmp_path)) == waiting


def test_a_misspelt_parameter_of_slurm_s_is_named(tmp_path, monkeypatch):
    for name in ('sbatch', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\nexit 1\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    executor = Executor('slurm', tmp_path / 'jobs', 1, 0, slurm=dict(partitio='x'))
    with pytest.raises(SystemExit, match=r"--slurm: Unavailable parameter\(s\): \['partitio'\]"):
        executor.submit([RunFolder(tmp_path / 'run')])
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(SystemExit, match='There is no sbatch here'):
        Executor('slurm', tmp_path / 'jobs', 1, 0)


def test_misspelt_methods_and_grids_are_named(tmp_path):
    output = sweep('plan', tmp_path / 'a', '--method', f'dfat={ROOT / "configs" / VOC}', code=1)
    assert "no protocol for 'dfat'" in output
    assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize(('words', 'message'), [
    (['--grid', 'ft.1=abc'], '--grid ft.1=abc: rates are numbers'),
    (['--grid', 'ft.1=0.1,-0.1'], '--grid ft.1=0.1,-0.1: -0.1 is no learning rate'),
    (['--grid', 'ft.1=nan'], 'nan is no learning rate'),
    (['--grid', 'ft.1=inf,1'], 'inf is no learning rate'),
    (['--grid', 'ft.1=0.1', '--grid', 'ft.1=0.2'], '--grid ft.1 is given twice'),
    (['--fixed-head-lr', '0'], '--fixed-head-lr 0 is no learning rate'),
    (['--method', 'ft=other.py'], '--method ft is named twice: x.py and other.py'),
    (['--method', 'daft'], '--method daft: write NAME=CONFIG')])
def test_a_plan_that_is_none_is_refused_in_words(words, message, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['sweep.py', 'plan', 'folder', '--method', 'ft=x.py', *words])
    with pytest.raises(SystemExit, match=re.escape(message)):
        read_sweep(parse_args(), 2)


def test_options_that_do_not_fit_and_epochs_are_refused_in_words(voc_root, tmp_path):
    small(VOC, tmp_path, voc_root).dump(tmp_path / 'ft.py')
    for option in ('foo', 'train_cfg.max_iters.x=1'):
        with pytest.raises(SystemExit, match=f'--cfg-options {option}: not KEY=VALUE of'):
            sweep_configs.read(str(tmp_path / 'ft.py'), [option])
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=3)))
    with pytest.raises(SystemExit, match=r'x.py: a sweep counts in iterations. Give it train_cfg = dict\('):
        sweep_configs.iterations_of(cfg, 'x.py')


@pytest.mark.parametrize('kinds', [['mIoU'], ['mDice'], ['mFscore'], ['mIoU', 'mFscore']])
def test_what_an_evaluator_measures_is_what_mmseg_s_writes(kinds):
    metric = IoUMetric(iou_metrics=kinds)
    metric.dataset_meta = dict(classes=('a', 'b'))
    written = metric.compute_metrics([tuple(torch.ones(2) for _ in range(4))])
    assert sweep_configs.metrics_of(dict(type='IoUMetric', iou_metrics=kinds)) == set(written)


@pytest.mark.parametrize('part', ['val_evaluator', 'test_evaluator'])
def test_an_evaluator_without_the_selecting_metric_is_refused(part, voc_root, tmp_path):
    cfg = small(VOC, tmp_path, voc_root, **{f'{part}.iou_metrics': ['mDice']})
    setup = setup_of('x.py')
    with pytest.raises(SystemExit, match=f'its {part} measures aAcc, mAcc, mDice, and mIoU selects.*--metric'):
        sweep_configs.check(setup, 'ft', cfg)
    cfg.merge_from_dict({f'{p}.iou_metrics': ['mDice'] for p in ('val_evaluator', 'test_evaluator')})
    sweep_configs.check(dataclasses.replace(setup, sweep=dataclasses.replace(setup.sweep, metric='mDice')), 'ft', cfg)


def test_a_sweep_on_this_machine_interrupted_and_gone_on_with(shapes_root, tmp_path):
    """LP and LP-FT, timed, interrupted by Ctrl-C and gone on with; LP-FT starts from the models of LP."""
    configs = write_methods(tmp_path, shapes_root, ('lp', 'lpft'))
    folder = tmp_path / 'sweep'
    output = sweep('plan', folder, '--method', f'lpft={configs["lpft"]}', '--method', f'lp={configs["lp"]}',
                   '--grid', 'lp.1=0.1', '--grid', 'lpft.1=1e-3', '--report-seeds', 0, '--held-out', 0.3,
                   '--gpus-per-run', 0, '--probe', 3)
    assert '4 runs of 2 iterations' in output
    timed = json.loads((folder / 'probe.json').read_text())
    hours = sum(2 * (t['seconds_around'] + 2 * t['seconds_per_iteration']) for t in timed.values()) / 3600
    shown = float(re.search(r'about ([\d.]+) GPU hours', output).group(1))
    assert set(timed) == {'lp', 'lpft'} and hours > 0.001 and shown == pytest.approx(hours, abs=0.06)
    assert not (folder / 'runs').exists()
    run = [sys.executable, 'tools/sweep.py', 'run', str(folder), '--interval', '0.2']
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 200
    while not list(folder.glob('runs/lp_step1*/attempts/*.json')) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 130 and 'goes on from here' in output, output
    assert 'missing: lp_step1' in sweep('collect', folder, code=1)

    output = sweep('run', folder, '--interval', 0.2)
    assert 'Complete.' in output
    results = {path.parent.name: json.loads(path.read_text()) for path in folder.glob('runs/*/result.json')}
    assert sorted(results) == [
        'lp_report_backbone-0_head-0.1_seed-0', 'lp_step1_backbone-0_head-0.1_seed-0',
        'lpft_report_backbone-0.001_head-0.001_lp-0.1_seed-0', 'lpft_step1_backbone-0.001_head-0.001_lp-0.1_seed-0']
    described = json.loads((folder / 'runs' / sorted(results)[2] / 'run.json').read_text())
    start = folder.resolve() / 'runs' / 'lp_report_backbone-0_head-0.1_seed-0' / 'train' / 'iter_2.pth'
    assert f'model.init_cfg.checkpoint={start}' in described['command']
    written = {path: path.stat().st_mtime_ns for path in folder.glob('runs/*/result.json')}
    assert 'Complete.' in sweep('run', folder)
    assert written == {path: path.stat().st_mtime_ns for path in folder.glob('runs/*/result.json')}
    assert 'missing:' not in sweep('collect', folder)
    assert '| LP-FT |' in (folder / 'results' / 'table.md').read_text()
