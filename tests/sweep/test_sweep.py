"""A sweep without a cluster: what it refuses, freezes and shows, and real trainings on this machine."""

import argparse
import dataclasses
import io
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
from mmseg.registry import DATASETS
from rich.console import Console
from support.pretrained_files import write_start
from support.small_runs import DAFT_VOC, SMALL, small, train
from support.sweep_runs import write_methods

from mmseg_daft import cli
from mmseg_daft.console import make_console
from mmseg_daft.engine.configs import ConfigError
from mmseg_daft.engine.training_data import leaf_datasets
from mmseg_daft.files import tool
from mmseg_daft.sweep import plan
from mmseg_daft.sweep.command import add_arguments, read_sweep
from mmseg_daft.sweep.folder import RunFolder, SweepFolder
from mmseg_daft.sweep.job import Executor, slurm_queue
from mmseg_daft.sweep.protocol import RATES, STATES, Protocol, Step, Sweep, decide, protocols
from mmseg_daft.sweep.results import ChangeLog, plan_table, write_results

ROOT = Path(__file__).parents[2]
VOC, CITYSCAPES, CAMVID = (name.replace('daft/daft', 'ft/ft') for name in (
    DAFT_VOC, 'daft/daft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py',
    'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'))
FT = Protocol((Step(('backbone_lr', 'head_lr'), (0.1,)),))


def folder_of(path, config='x.py', **options):
    return SweepFolder(path, **{'sweep': Sweep({'ft': FT}, iterations=2), 'configs': {'ft': str(config)},
                                'held_out': 0.3, 'held_out_by': '', 'held_out_seed': 0, **options})


def frozen(config, root, tmp_path, **options):
    cfg = small(config, tmp_path / 'unused', root)
    cfg.dump(tmp_path / 'ft.py')
    plan.freeze(folder_of(tmp_path / 'sweep', tmp_path / 'ft.py', **options))
    return [Config.fromfile(tmp_path / 'sweep' / 'configs' / f'ft-{name}.py', import_custom_modules=False)
            for name in ('select', 'report')]


def images(dataset):
    """What a data set of a frozen config reads, by mmseg itself."""
    leaves = [DATASETS.build(dict(leaf, pipeline=[])) for leaf in leaf_datasets(dataset)]
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
    words = folder_of(tmp_path / 'sweep').selected_on
    assert words == f'{held} of the {len(train | selected)} training images, held out'
    assert images(select.test_dataloader.dataset) == selected
    assert images(report.train_dataloader.dataset) == train | selected
    assert images(report.val_dataloader.dataset) == reported == images(report.test_dataloader.dataset)
    # The held-out images are evaluated as the reported ones are: whole, without augmentation.
    assert all(leaf.pipeline == whole.val_dataloader.dataset.pipeline
               for leaf in leaf_datasets(select.val_dataloader.dataset))


def test_a_frozen_config_validates_at_its_end_and_carries_the_hooks(voc_root, tmp_path):
    cfg = small(VOC, tmp_path, voc_root)
    del cfg.default_hooks['divergence'], cfg.default_hooks['on_signal']
    cfg.train_cfg.update(val_interval=1, val_begin=3, dynamic_intervals=[(1, 1)])
    plan.prepare(folder_of(tmp_path, gpus_per_run=2), cfg)
    assert cfg.train_cfg.val_interval == 2 and not {'val_begin', 'dynamic_intervals'} & cfg.train_cfg.keys()
    assert cfg.train_dataloader.batch_size == 2
    assert {'DivergenceHook', 'CheckpointOnSignalHook'} <= {hook['type'] for hook in cfg.default_hooks.values()}
    with pytest.raises(SystemExit, match='cannot be shared by 3 GPUs'):
        plan.prepare(folder_of(tmp_path, gpus_per_run=3), cfg)
    folder = folder_of(tmp_path, epochs=5)  # where it counts these
    cfg.default_hooks.logger.log_metric_by_epoch = False
    plan.prepare(folder, cfg)
    assert cfg.train_cfg.val_interval == 5 and cfg.default_hooks.logger.log_metric_by_epoch
    assert folder.ending(decide(folder.sweep, {}).start[0]) == dict(final='epoch_5.pth')


def test_conversions_share_their_statistics(voc_root, tmp_path):
    cfg = small(DAFT_VOC, tmp_path, voc_root)
    plan.prepare(folder_of(tmp_path / 'sweep'), cfg)
    files = [hook.get('statistics') for hook in cfg.custom_hooks]
    assert [file for file in files if file] == [f'{tmp_path}/sweep/statistics/{{pass}}.safetensors']


@pytest.mark.slow
def test_the_first_step_of_the_released_search_trains_as_integrated_lpft(sweep, shapes_root, tmp_path):
    """To the bit; its second step and what is reported are the method's own config."""
    start = write_methods(tmp_path, shapes_root, ('daft',))['daft']
    output = sweep('plan', tmp_path / 'sweep', '--method', f'daft={start}', '--search', 'released', '--gpus-per-run', 0,
                   '--held-out', 0.3, '--grids-of', 'cifar', '--report-seeds', 0)
    assert 'daft step1- 4 0.0001, 3e-05, 1e-05, 3e-06 1 0 plain daft step2 4' in output
    assert 'Rates are selected on 3 of the 7 training images, held out.' in output
    folder, trained = SweepFolder.load(tmp_path / 'sweep'), []
    first = decide(folder.sweep, {}).start[0]
    assert str(folder.frozen_config('daft', first.stage)) in folder.train_command(first, tmp_path, None)
    hooks = {stage: Config.fromfile(folder.frozen_config('daft', stage)).custom_hooks
             for stage in (first.stage, 'step2', 'report')}
    assert [hook['type'] for stage in ('step2', 'report') for hook in hooks[stage]] == 2 * ['BNConversionHook']
    for these in (hooks[first.stage], Config.fromfile(SMALL / 'integrated-lpft.py').custom_hooks):
        cfg = Config.fromfile(folder.frozen_config('daft', 'step2'))
        cfg.update(work_dir=str(tmp_path / f'{len(trained)}'), custom_hooks=these, randomness=dict(seed=0),
                   experiment_name=f'released-{len(trained)}', val_dataloader=None, val_cfg=None, val_evaluator=None)
        trained.append(train(cfg).model.state_dict())
    assert all(torch.equal(trained[0][name], tensor) for name, tensor in trained[1].items())


@pytest.mark.parametrize(('change', 'message'), [
    ({'custom_hooks': []}, 'x.py: has no BNConversionHook, and the second step of --search released converts'),
    ({'custom_hooks': [dict(type='BNConversionHook'), dict(type='BNTestModeHook')]},
     'x.py: keeps batch norm in eval mode, and the second step of --search released trains it'),
    ({'model.backbone.norm_eval': True}, 'keeps batch norm in eval mode')])
def test_what_the_released_search_cannot_train_is_refused(change, message, shapes_root, tmp_path):
    cfg = small(SMALL / 'daft.py', tmp_path, shapes_root)
    cfg.merge_from_dict(change)
    with pytest.raises(SystemExit, match=message):
        plan.without_conversion('x.py', cfg)


def test_the_first_step_of_the_released_search_keeps_the_modules_that_are_converted(shapes_root, tmp_path):
    converted = dict(type='BNConversionHook', modules=('backbone.layer4',), blend=0.5)
    cfg = small(SMALL / 'daft.py', tmp_path, shapes_root, custom_hooks=[dict(type='FeatureDistortionHook'), converted])
    assert plan.without_conversion('x.py', cfg).custom_hooks == [
        dict(type='FeatureDistortionHook'), dict(type='BNTestModeHook', modules=('backbone.layer4',))]
    assert cfg.custom_hooks[1] == converted


@pytest.mark.parametrize(('change', 'message'), [
    ({'param_scheduler.0.eta_min': 1e-3}, 'ends at eta_min=0.001, above the rate 0.0001'),
    ({'optim_wrapper.constructor': 'Default'}, "are DAFTOptimWrapperConstructor's"),
    ({'train_cfg.max_iters': 3}, 'trains for 3 iterations, the others for 2')])
def test_what_cannot_be_swept_is_refused_before_anything_runs(change, message, voc_root, tmp_path):
    cfg = small(VOC, tmp_path, voc_root, **change)
    folder = folder_of(tmp_path, sweep=Sweep({'ft': protocols()['ft']}, iterations=2))
    with pytest.raises(SystemExit, match=message):
        plan.check(folder, 'ft', cfg)


@pytest.mark.parametrize('config', [VOC, CITYSCAPES, CAMVID])
def test_data_that_are_not_there_are_named(config, tmp_path):
    with pytest.raises(SystemExit, match=rf'Dataset in {tmp_path}/nowhere: it'):
        frozen(config, tmp_path / 'nowhere', tmp_path)


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    folder_of(tmp_path).save()
    folder_of(tmp_path, revision='later').save()
    assert SweepFolder.load(tmp_path) == folder_of(tmp_path)
    with pytest.raises(SystemExit, match='another sweep: it differs in held_out'):
        folder_of(tmp_path, held_out=0.5).save()
    with pytest.raises(SystemExit, match='takes apart at spaces'):
        folder_of(tmp_path / 'a b')
    with pytest.raises(SystemExit, match='holds no sweep: start with mmseg-daft sweep plan'):
        SweepFolder.load(tmp_path / 'nowhere')


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
    folder = folder_of(tmp_path, gpus_per_run=0, directory=str(tmp_path))
    run = decide(folder.sweep, {}).start[0]
    place = folder.describe(run)
    monkeypatch.setattr(sys, 'executable', '/another/python3')
    assert folder.describe(run).description()['command'][0] == '/another/python3'
    (place.path / 'run.json').write_text(json.dumps(dict(place.description(), head_lr=0.5)))
    with pytest.raises(SystemExit, match='differs in head_lr. Plan into another folder'):
        folder.describe(run)


@pytest.mark.parametrize('gpus', [0, 1, 2])
def test_runs_are_started_by_what_an_installed_package_has(gpus, tmp_path):
    folder = folder_of(tmp_path, gpus_per_run=gpus, directory=str(tmp_path))
    described = folder.describe(decide(folder.sweep, {}).start[0]).description()
    for name in ('train', 'test'):
        command = described['command' if name == 'train' else 'test_command']
        launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'] * (gpus == 2)
        words = [sys.executable, *launch, tool(f'{name}.py'), str(tmp_path / 'configs' / 'ft-select.py')]
        assert command[:len(words)] == words
        assert ('--launcher' in command) == (gpus == 2)


def test_a_sweep_whose_directory_has_moved_goes_on_once_it_is_planned_there(tmp_path):
    gone = folder_of(tmp_path, directory=str(tmp_path / 'gone'))
    gone.save()
    run = decide(gone.sweep, {}).start[0]
    with pytest.raises(SystemExit, match='which is gone: give the plan command again'):
        SweepFolder.load(tmp_path).describe(run)
    folder_of(tmp_path, directory=str(tmp_path)).save()
    assert SweepFolder.load(tmp_path).describe(run).description()['directory'] == str(tmp_path)


def test_a_sweep_that_was_begun_by_version_0_1_goes_on(sweep, tmp_path):
    """Its runs were started by tools/train.py of a checkout; what had ended stays, the others are started as now."""
    method = dict(steps=[dict(rates=['backbone_lr', 'head_lr'], grid=[0.1, 0.01])], fixed={}, starts_from=None)
    (tmp_path / 'sweep.json').write_text(json.dumps(dict(
        sweep=dict(methods=dict(ft=method), select_seeds=[0], report_seeds=[0], metric='mIoU', iterations=2),
        configs=dict(ft='x.py'), held_out=0.3, held_out_by='', held_out_seed=0, options=[], gpus_per_run=0,
        revision='1ca907da355e', directory=str(tmp_path))))
    names = [f'ft_step1_backbone-{rate}_head-{rate}_seed-0' for rate in (0.1, 0.01)]
    for name, rate in zip(names, (0.1, 0.01)):
        (tmp_path / 'runs' / name / 'attempts').mkdir(parents=True)
        (tmp_path / 'runs' / name / 'run.json').write_text(json.dumps(dict(
            method='ft', stage='step1', backbone_lr=rate, head_lr=rate, seed=0, start=None, iterations=2,
            metric='mIoU', config='x.py', revision='1ca907da355e', gpus=0, directory=str(tmp_path), code='/old/tools',
            command=['python', '/old/tools/train.py', 'c.py', '--resume', '--work-dir', 'w'],
            test_command=['python', '/old/tools/test.py', 'c.py', '--work-dir', 'w'])))
        (tmp_path / 'runs' / name / 'attempts' / '0001.json').write_text(json.dumps(dict(
            started=1.0, host='vm', pid=1, job='1', ticket='t', iteration=0, outcome='stopped', ended=2.0)))
    (tmp_path / 'runs' / names[0] / 'result.json').write_text(json.dumps(dict(
        value=8.91, diverged=False, iteration=2, metrics=dict(mIoU=8.91), checkpoint='iter_2.pth', seconds=12.0,
        seconds_per_iteration=0.06, revision='1ca907da355e', tested=False, host='vm', job='1', versions={})))
    folder = SweepFolder.load(tmp_path)
    decision = folder.look(set())
    assert [run.name for run in decision.start] == names[1:] and decision.seen[names[0]].value == 8.91
    described = folder.describe(decision.start[0]).description()
    assert described['command'][1] == tool('train.py')
    folder_of(tmp_path, sweep=folder.sweep, gpus_per_run=0, directory='elsewhere').save()
    assert SweepFolder.load(tmp_path) == folder
    assert '1 done' in sweep('status', tmp_path)
    sweep('collect', tmp_path, code=1)
    assert '/old/tools/train.py' in (tmp_path / 'results' / 'commands.sh').read_text()


def test_a_table_of_runs_trained_with_different_code_says_so(tmp_path):
    folder = folder_of(tmp_path, directory=str(tmp_path), revision='planned')
    folder.save()
    (tmp_path / 'split').mkdir()
    for name, text in {'train-0': 'a\nb\n', 'train-1': 'c\n', 'held-out-0': 'd\n', 'held-out-1': 'e\n'}.items():
        (tmp_path / 'split' / f'{name}.txt').write_text(text)
    codes = {'ft_step1': 'aaa', 'ft_report': 'aaa'}
    for mixed in (False, True):
        while runs := folder.look(set()).start:
            for run in runs:
                folder.describe(run).write_result(dict(
                    value=1.0, diverged=False, iteration=2, seconds=1, seconds_per_iteration=1, versions={},
                    revision=codes[f'ft_{run.stage}']))
        write_results(folder, Console(quiet=True))
        table, rows = ((tmp_path / 'results' / name).read_text() for name in ('table.md', 'runs.csv'))
        assert 'planned' not in rows
        assert 'rates selected on 2 of the 5 training images, held out.' in table
        assert ('**Mixed code**: these runs were trained with aaa, bbb;' in table) == mixed == ('bbb' in rows)
        for path in tmp_path.glob('runs/ft_report*/result.json'):
            path.unlink()
        codes['ft_report'] = 'bbb'


def test_a_seed_that_has_no_start_is_missing_in_the_table(tmp_path):
    methods = {'lp': Protocol((Step(('head_lr',), (1.0,)),), {'backbone_lr': 0.0}),
               'lpft': Protocol((Step(RATES, (0.1,)),), starts_from='lp')}
    folder = folder_of(tmp_path, sweep=Sweep(methods, report_seeds=(0, 1), iterations=2), directory=str(tmp_path),
                       configs=dict.fromkeys(methods, 'x.py'))
    folder.save()
    (tmp_path / 'patience.json').write_text('[0, true]')  # of run --accept-missing
    while runs := folder.look(set()).start:
        for run in runs:
            place = folder.describe(run)
            place.work_dir.mkdir()
            (place.work_dir / 'iter_2.pth').touch()
            (place.work_dir / 'last_checkpoint').write_text(str(place.work_dir / 'iter_2.pth'))
            diverged = run.name.startswith('lp_report') and run.seed == 1
            place.write_result(dict(value=None if diverged else 1.0, diverged=diverged, iteration=2, seconds=1,
                                    seconds_per_iteration=1, versions={}, revision='aaa'))
    missing = write_results(folder, Console(quiet=True))
    assert 'lpft: seed 1 has no start (lp_report_backbone-0_head-1_seed-1: diverged)' in missing
    assert '| LP-FT | 1.00 | 1 of 2 (seed 1 without a start) |' in (tmp_path / 'results' / 'table.md').read_text()


def test_what_slurm_holds_after_a_failed_launch_is_submitted_again(tmp_path, monkeypatch):
    """By programs in Slurm's place: a launch that fails is hard to come by."""
    lines = '1_0|1_0|None|sweep-x', '2|2_N/A|launch failed requeued held|sweep-x', \
            '3|3_N/A|launch failed requeued held|others', '4_7|4_7|BeginTime|sweep-x', \
            '5|5_N/A|launch failed requeued held|sweep-x2'
    for name, text in (('squeue', '\n'.join(f'echo "{line}"' for line in lines)),
                       ('scancel', f'echo "$@" >> {tmp_path}/cancelled')):
        (tmp_path / name).write_text(f'#!/bin/sh\n{text}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    assert {'1_0', '4_7', '3'} == {job for job in slurm_queue() if 'N/A' not in job}
    assert not (tmp_path / 'cancelled').exists()
    slurm_queue('sweep-x')
    assert (tmp_path / 'cancelled').read_text() == '2\n'
    (tmp_path / 'squeue').write_text('#!/bin/sh\nexit 1\n')
    assert slurm_queue() is None


def test_jobs_that_die_before_they_begin_are_not_submitted_for_ever(sweep, tmp_path, monkeypatch):
    """As where a node's Python cannot load them; no training, the folder of a sweep is enough."""
    folder_of(tmp_path / 'sweep', gpus_per_run=0, directory=str(tmp_path)).save()
    (tmp_path / 'sitecustomize.py').write_text('import os\n'
                                               'if "SUBMITIT_LOCAL_JOB_ID" in os.environ: os._exit(3)\n')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path), str(ROOT)]))
    output = sweep('run', tmp_path / 'sweep', '--interval', 0.1, '--max-failures', 1, code=1)
    assert 'failed more than 1 times: ft_step1' in output and 'or without it by --accept-missing.' in output
    output = sweep('run', tmp_path / 'sweep', '--interval', 0.1, '--max-failures', 1, '--accept-missing', code=1)
    assert 'every rate diverged or failed' in output and 'accept-missing' not in output
    assert len(list(tmp_path.glob('sweep/runs/*/submissions/*'))) == 2


@pytest.mark.parametrize('queue', ['exit 1', 'echo "1|1|None|others"'], ids=['silence', 'a job of that number'])
def test_a_failed_run_of_this_machine_is_none_of_slurm_s(queue, sweep, tmp_path, monkeypatch):
    """Slurm's silence is about its own jobs, and its numbers mean others."""
    (tmp_path / 'squeue').write_text(f'#!/bin/sh\n{queue}\n')
    (tmp_path / 'squeue').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    folder = folder_of(tmp_path / 'sweep', directory=str(tmp_path))
    folder.save()
    for run in decide(folder.sweep, {}).start:
        place = folder.describe(run)
        place.submitted('1', 'local', 'ticket')
        place.end_attempt(place.begin_attempt('1', 0, 'ticket'), 'failed')
    output = sweep('status', folder.path)
    assert '1 failed' in output and 'queued' not in output and 'Slurm does not answer' not in output


@pytest.mark.parametrize('content', ['', '{"value": 1', '\0' * 20], ids=['empty', 'half-written', 'zeros'])
@pytest.mark.parametrize('name', ['sweep.json', 'probe.json', 'patience.json', 'result.json', 'run.json',
                                  'attempts/0001.json', 'submissions/0001.json'])
def test_a_damaged_file_is_named(name, content, sweep, tmp_path):
    folder = folder_of(tmp_path, directory=str(tmp_path))
    folder.save()
    place = folder.describe(decide(folder.sweep, {}).start[0])
    damaged = (tmp_path if (tmp_path / name).exists() or name in ('probe.json', 'patience.json') else place.path) / name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_text(content)
    for command in {'run.json': ['collect'], 'probe.json': ['status']}.get(name, ['status', 'collect']):
        assert f'{damaged} is empty or damaged' in sweep(command, tmp_path, code=1)


@pytest.mark.parametrize('waiting', [False, True])
def test_slurm_s_silence_is_told_of_a_sweep_that_waits_for_it(waiting, sweep, tmp_path, monkeypatch):
    """The program is there, its cluster is not."""
    (tmp_path / 'squeue').write_text('#!/bin/sh\nexit 1\n')
    (tmp_path / 'squeue').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    folder = folder_of(tmp_path, directory=str(tmp_path))
    folder.save()
    for run in decide(folder.sweep, {}).start:
        place = folder.describe(run)
        if waiting:
            place.submitted('1', 'slurm', 'ticket')
    assert ('Slurm does not answer' in sweep('status', tmp_path)) == waiting


@pytest.mark.parametrize('words', [['run'], ['plan', '--method', 'ft=x.py', '--probe', '2']], ids=['run', 'probe'])
def test_a_missing_extra_is_named_before_anything_is_planned_or_run(words, sweep, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    folder = tmp_path / 'sweep'
    if words == ['run']:
        folder_of(folder).save()
    output = sweep(words[0], folder, *words[1:], code=1)
    assert 'submitted by submitit, which cannot be imported here' in output
    assert "pip install 'mmseg-daft[sweep]'" in output
    assert [path.name for path in tmp_path.rglob('*') if path.is_file()] == ['sweep.json'] * (words == ['run'])


def test_a_submitit_that_cannot_be_imported_is_said_in_a_sentence(sweep, tmp_path, monkeypatch):
    (tmp_path / 'submitit.py').write_text('raise ImportError("cannot import name x")')
    monkeypatch.delitem(sys.modules, 'submitit', raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    folder_of(tmp_path / 'sweep').save()
    assert "cannot be imported here (cannot import name x): pip install" in sweep('run', tmp_path / 'sweep', code=1)


def test_a_misspelt_parameter_of_slurm_s_is_named(tmp_path, monkeypatch):
    for name in ('sbatch', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\nexit 1\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    executor = Executor('slurm', tmp_path / 'jobs', 1, 0, slurm=dict(partitio='x'))
    with pytest.raises(SystemExit, match=r"--slurm: Unavailable parameter\(s\): \['partitio'\]"):
        executor.submit([RunFolder(tmp_path / 'run')])
    executor.slurm = dict(additional_parameters='mail-type')
    with pytest.raises(SystemExit, match="--slurm: 'str' object is not a mapping"):
        executor.submit([RunFolder(tmp_path / 'run')])
    with pytest.raises(SystemExit, match=f'--slurm job_name: .* by their name, sweep-{tmp_path.name}. Drop it.'):
        Executor('slurm', tmp_path / 'jobs', 1, 0, slurm=dict(job_name='x'))
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(SystemExit, match='There is no sbatch here'):
        Executor('slurm', tmp_path / 'jobs', 1, 0)


@pytest.mark.parametrize('srun_args', ['--mpi=none --label', ['--mpi=none', '--label']], ids=['text', 'list'])
def test_slurm_gets_what_the_user_gives_beside_what_the_sweep_needs(srun_args, tmp_path, monkeypatch):
    """In the real batch file, which a program in sbatch's place keeps."""
    for name, text in (('sbatch', f'cp "$1" {tmp_path}/batch; echo "Submitted batch job 7"'), ('srun', 'exit 1')):
        (tmp_path / name).write_text(f'#!/bin/sh\n{text}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    place = RunFolder(tmp_path / 'run')
    Executor('slurm', tmp_path / 'jobs', 1, 0, slurm=dict(
        setup='module load cuda', srun_args=srun_args, additional_parameters={'mail-type': 'FAIL'})).submit([place])
    batch = (tmp_path / 'batch').read_text()
    assert place.job() == '7' and '# setup\nmodule load cuda\n' in batch
    for option in ('mail-type=FAIL', 'requeue', f'job-name=sweep-{tmp_path.name}'):
        assert f'#SBATCH --{option}\n' in batch
    assert ' --cpus-per-task=5 --mpi=none --label ' in batch


@pytest.mark.parametrize(('words', 'message'), [
    (['--grid', 'ft.1=abc'], "--grid ft.1=abc: give a number above 0, not 'abc'."),
    (['--grid', 'ft.1=0.1,-0.1'], "--grid ft.1=0.1,-0.1: give a number above 0, not '-0.1'"),
    (['--grid', 'ft.1=nan'], "not 'nan'"),
    (['--grid', 'ft.1=inf,1'], "not 'inf'"),
    (['--grid', 'ft.1=0.1,0.10'], 'is empty or names a rate twice'),
    (['--grid', 'ft.1=0.1', '--grid', 'ft.1=0.2'], '--grid ft.1 is given twice'),
    (['--select-seeds', '1', '1'], 'The seeds 1, 1 name one twice'),
    (['--report-seeds', '0', '1', '0'], 'The seeds 0, 1, 0 name one twice'),
    (['--method', 'ft=other.py'], '--method ft is named twice: x.py and other.py'),
    (['--method', 'daft'], '--method daft: write NAME=CONFIG'),
    (['--search', 'released'], '--search released searches daft, ft-conversion, integrated-lpft in another way, and '
     'none of them is a --method')])
def test_a_plan_that_cannot_be_swept_is_refused_in_words(words, message):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit, match=re.escape(message)):
        read_sweep(parser.parse_args(['plan', 'folder', '--method', 'ft=x.py', *words]), 2, '')


def test_a_folder_that_cannot_be_written_to_is_refused(sweep, tmp_path):
    (tmp_path / 'file').touch()
    output = sweep('plan', tmp_path / 'file', '--method', 'ft=x.py', code=1)
    assert f'{tmp_path / "file"}/sweep.json cannot be written: ' in output and 'Name another place' in output
    folder_of(tmp_path / 'sweep').save()
    (tmp_path / 'sweep' / 'results').touch()
    assert 'results/runs.csv cannot be written: ' in sweep('collect', tmp_path / 'sweep', code=1)


@pytest.mark.parametrize(('change', 'message'), [
    ({'model.backbone.type': 'ResNett'}, 'its model cannot be built: .*ResNett'),
    ({'model.decode_head.num_clases': 3}, 'its model cannot be built: .*num_clases'),
    ({'optim_wrapper.optimizer.type': 'SDG'}, 'its optim_wrapper cannot be built: .*SDG'),
    ({'optim_wrapper.paramwise_cfg.backbone_r': 1}, 'its optim_wrapper cannot be built: .*backbone_r'),
    ({'default_hooks.timer.type': 'IterTimeHook'}, 'there is no hook IterTimeHook. Is it misspelt'),
    ({'train_cfg.type': 'IterBasedTrainLop'}, 'there is no loop IterBasedTrainLop'),
    ({'param_scheduler.0.type': 'PolLR'}, 'there is no parameter scheduler PolLR'),
    ({'test_evaluator.type': 'IoUMetrik'}, 'there is no metric IoUMetrik'),
    ({'train_dataloader.batch_size': 0}, 'train_dataloader.batch_size=0: give the number of images, 1 or more'),
    ({'train_dataloader.batch_size': '8 images'}, 'batch_size=8 images: give'),
    ({'train_dataloader.num_workers': -1}, 'its train_dataloader cannot be built: .*num_workers'),
    ({'train_dataloader.sampler.type': 'InfinitSampler'}, 'its train_dataloader cannot be built: .*InfinitSampler'),
    ({'val_dataloader.dataset.pipeline.0.type': 'LoadImag'}, 'its val_dataloader cannot be built: .*LoadImag'),
    ({'test_dataloader.dataset.data_root': 'nowhere'}, 'its test_dataloader cannot be built: .*nowhere'),
    ({'val_evaluator.iou_metrics': ['mIou']}, r"iou_metrics=\['mIou'\]: mmseg has no mIou; it has mIoU, mDice"),
    ({'train_cfg.max_iters': 0}, r'a whole number of at least 1 \(max_iters is 0\)'),
    ({'train_cfg.max_iters': '30k'}, r'\(max_iters is 30k\)'),
    ({'default_hooks.checkpoint.by_epoch': True}, 'CheckpointHook counts others. Set .*by_epoch=False'),
    ({'val_evaluator': None}, 'ft.py lacks val_evaluator, '),
    ({'model': None, 'test_dataloader': None}, 'ft.py lacks model, test_dataloader, ')])
def test_what_cannot_run_is_refused_by_the_plan(change, message, voc_root, sweep, tmp_path):
    cfg = small(VOC, tmp_path / 'unused', voc_root)
    cfg.merge_from_dict(change)
    cfg.dump(tmp_path / 'ft.py')
    output = sweep('plan', tmp_path / 'sweep', '--method', f'ft={tmp_path / "ft.py"}', '--gpus-per-run', 0,
                   '--held-out', 0.3, code=1)
    assert re.search(message, output) and 'Traceback' not in output
    assert not (tmp_path / 'sweep' / 'sweep.json').exists()


@pytest.mark.parametrize(('hooks', 'message'), [
    (dict(checkpoint=None), "without a CheckpointHook no final model is left. Set default_hooks.checkpoint=dict("),
    ({}, "its CheckpointHook counts others. Set default_hooks.checkpoint=dict(type='CheckpointHook', by_epoch=False)"),
    (dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, save_last=False, interval=3)), 'save_last=True')])
def test_a_config_that_does_not_save_its_end_under_the_name_that_is_looked_for_is_refused(
        hooks, message, voc_root, tmp_path):
    cfg, folder = small(VOC, tmp_path, voc_root), folder_of(tmp_path)
    for kind in ('CheckpointHook', 'MyCheckpointHook'):  # a subclass
        cfg.default_hooks.checkpoint.type = kind
        plan.check(folder, 'ft', cfg)
    cfg.default_hooks = hooks
    with pytest.raises(SystemExit, match=re.escape(message)):
        plan.check(folder, 'ft', cfg)


def test_checkpoints_stay_in_the_folder_of_their_run(voc_root, tmp_path):
    """MMEngine would put those of all runs into one, and one run would resume another."""
    for kind in ('CheckpointHook', 'MyCheckpointHook'):
        cfg = small(VOC, tmp_path, voc_root, **{
            'default_hooks.checkpoint.out_dir': str(tmp_path / 'checkpoints'), 'default_hooks.checkpoint.type': kind})
        plan.prepare(folder_of(tmp_path / 'sweep'), cfg)
        assert 'out_dir' not in cfg.default_hooks.checkpoint and cfg.default_hooks.checkpoint.type == kind


def test_rates_that_are_nearly_the_same_are_two_runs_that_train_at_their_own(tmp_path):
    rates = (0.1, 0.1000001, 1e-5, 1.23456789e-5)
    sweep = Sweep({'ft': Protocol((Step(RATES, rates),))}, iterations=2)
    folder = folder_of(tmp_path, sweep=sweep)
    runs = decide(sweep, {}).start
    assert len({folder.run_folder(run).path for run in runs}) == len(rates)
    assert runs[0].name == 'ft_step1_backbone-0.1_head-0.1_seed-0'  # as ever
    for run in runs:
        command = folder.train_command(run, tmp_path, None)
        given = [word.partition('=')[2] for word in command if 'paramwise_cfg' in word]
        assert tuple(map(float, given)) == run.rates
    table = make_console(file=io.StringIO())
    table.print(plan_table(folder)[0])
    assert '0.1, 0.1000001, 1e-05, 1.23456789e-05' in ' '.join(table.file.getvalue().split())


def test_options_that_do_not_fit_are_refused_in_words(voc_root, tmp_path):
    small(VOC, tmp_path, voc_root).dump(tmp_path / 'ft.py')
    for option in ('foo', 'train_cfg.max_iters.x=1'):
        with pytest.raises(ConfigError, match=f'--cfg-options {option}: not KEY=VALUE of'):
            plan.read(str(tmp_path / 'ft.py'), [option])


@pytest.mark.parametrize('kinds', ['mFscore', ['mIoU'], ['mDice'], ['mFscore'], ['mIoU', 'mFscore']])
def test_what_an_evaluator_measures_is_what_mmseg_s_writes(kinds):
    metric = IoUMetric(iou_metrics=kinds)
    metric.dataset_meta = dict(classes=('a', 'b'))
    written = metric.compute_metrics([tuple(torch.ones(2) for _ in range(4))])
    assert plan.metrics_of(dict(type='IoUMetric', iou_metrics=kinds)) == set(written)


@pytest.mark.parametrize('part', ['val_evaluator', 'test_evaluator'])
def test_an_evaluator_without_the_selecting_metric_is_refused(part, voc_root, tmp_path):
    cfg = small(VOC, tmp_path, voc_root, **{f'{part}.iou_metrics': ['mDice']})
    folder = folder_of(tmp_path)
    with pytest.raises(SystemExit, match=f'its {part} measures aAcc, mAcc, mDice, and mIoU selects.*--metric'):
        plan.check(folder, 'ft', cfg)
    cfg.merge_from_dict({f'{p}.iou_metrics': ['mDice'] for p in ('val_evaluator', 'test_evaluator')})
    plan.check(dataclasses.replace(folder, sweep=dataclasses.replace(folder.sweep, metric='mDice')), 'ft', cfg)


@pytest.fixture
def half_way(tmp_path, monkeypatch):
    """A sweep of all methods, half way, with a run in every state that there is."""
    monkeypatch.chdir(tmp_path)
    known, locks = protocols(), []
    folder = folder_of(Path('sweep'), sweep=Sweep(known, (0, 1), (0, 1, 2, 3, 4)), configs=dict.fromkeys(known, 'x.py'))
    folder.save()
    timing = dict(seconds_per_iteration=12.3, seconds_around=100, iterations=20)
    (folder.path / 'probe.json').write_text(json.dumps(dict.fromkeys(known, timing)))
    odd = iter(['failed', 'running', 'queued', 'diverged', 'to start'])
    for _ in range(6):
        for run in folder.look({'queued'}).start:
            place = folder.describe(run)
            state = next(odd, 'to start') if run.method == 'daft' or run.name.startswith('ft_report') else 'done'
            if state in ('done', 'diverged'):
                place.write_result(dict(
                    value=99.5 + run.seed / 100 if state == 'done' else None, diverged=state == 'diverged',
                    iteration=30000, seconds=3600.5, seconds_per_iteration=0.1, versions={}, revision='0123456789ab+'))
                if run.method == 'lp':
                    final = place.work_dir / 'iter_30000.pth'
                    final.parent.mkdir()
                    final.touch()
                    (place.work_dir / 'last_checkpoint').write_text(str(final))
            elif state == 'failed':
                place.end_attempt(place.begin_attempt('1', 0), 'failed')
            elif state == 'queued':
                place.submitted('queued', 'slurm', 'ticket')
            elif state == 'running':
                locks.append(place.lock())
    (tmp_path / 'squeue').write_text('#!/bin/sh\necho "queued|queued|None|sweep-x"\n')
    (tmp_path / 'squeue').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    yield folder
    for lock in locks:
        os.close(lock)


@pytest.mark.parametrize('columns', [80, 100], ids=['80 columns', 'pipe'])
@pytest.mark.parametrize('what', ['plan', 'status', 'collect', 'log'])
def test_what_is_shown_fits_and_nothing_is_cut(what, columns, half_way, monkeypatch, capsys):
    """Every word of every cell is whole, and no line is wider than the terminal, or than 100 in a pipe."""
    monkeypatch.setenv('COLUMNS', '80')
    if columns == 100:
        monkeypatch.delenv('COLUMNS')
    decision = half_way.look({'queued'})
    words, reported = {*protocols(), 'step1', 'report'}, [run for run in decision.runs if run.stage == 'report']
    if what == 'plan':
        released = dataclasses.replace(half_way.sweep, methods=protocols(search='released'))
        for folder in (half_way, dataclasses.replace(half_way, sweep=released)):
            make_console().print(*plan_table(folder), sep='\n')
        grids = [step.grid for protocol in protocols().values() for step in protocol.steps]
        words |= {f'{rate:g}' for grid in grids for rate in grid} | {*RATES, 'runs', 'GPU', 'seeds', '1640.4'}
        words |= {'step1-', 'plain', 'step2'}
    elif what == 'log':
        ChangeLog(make_console())(decision, 'Slurm does not answer: waiting for it')
        words = {f'{run.name}:' for run in decision.runs} | {'99.50'}
    else:
        cli.main(['sweep', what, 'sweep'])
        words |= {*RATES, 'mIoU'}
        if what == 'status':
            words |= {word for state in STATES for word in state.split()}
        else:
            words = {run.method for run in reported} | {f'{rate:g}' for run in reported for rate in run.rates}
            words |= {*RATES, 'seeds', '99.52', '0.02'}
    output = capsys.readouterr().out
    shown = {word.strip(',()') for word in output.split()}
    assert words <= shown, words - shown
    assert '…' not in output.replace('--method …', '') and max(map(len, output.splitlines())) <= columns


@pytest.mark.slow
def test_a_sweep_on_this_machine_interrupted_and_gone_on_with(sweep, shapes_root, tmp_path):
    """LP and LP-FT, timed, interrupted by Ctrl-C and gone on with; LP-FT starts from the models of LP."""
    configs = write_methods(tmp_path, shapes_root, ('lp', 'lpft'))
    folder = tmp_path / 'sweep'
    plan_it = [sys.executable, '-m', 'mmseg_daft', 'sweep', 'plan', folder, '--method', f'lpft={configs["lpft"]}',
               '--method', f'lp={configs["lp"]}', '--grid', 'lp.1=0.1', '--grid', 'lpft.1=1e-3', '--report-seeds', '0',
               '--held-out', '0.3', '--gpus-per-run', '0', '--probe', '3']
    output = subprocess.run(plan_it, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '4 runs of 2 iterations' in ' '.join(output.split()) and 'mmengine' not in output
    timed = json.loads((folder / 'probe.json').read_text())
    hours = sum(2 * (t['seconds_around'] + 2 * t['seconds_per_iteration']) for t in timed.values()) / 3600
    shown = float(re.search(r'about ([\d.]+) GPU hours', output).group(1))
    assert set(timed) == {'lp', 'lpft'} and hours > 0.001 and shown == pytest.approx(hours, abs=0.06)
    assert not (folder / 'runs').exists()
    run = [sys.executable, '-m', 'mmseg_daft', 'sweep', 'run', str(folder), '--interval', '0.2']
    process = subprocess.Popen(
        run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a suite in a shell's background ignores it
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


@pytest.mark.slow
def test_the_commands_of_a_sweep_from_a_source_train_the_same_again(sweep, shapes_root, tmp_path):
    """A baseline without our hooks: MMEngine would resume the source, which was trained for longer."""
    cfg = small(SMALL / 'ft.py', tmp_path / 'source', shapes_root, iters=4)
    write_start(cfg, tmp_path)
    cfg.default_hooks = {name: hook for name, hook in cfg.default_hooks.items() if name in ('logger', 'checkpoint')}
    train(cfg)
    cfg.load_from = str(tmp_path / 'source' / 'iter_4.pth')
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.update(interval=2, out_dir=str(tmp_path / 'elsewhere'))
    for key in ('experiment_name', 'work_dir'):
        cfg.pop(key)
    cfg.dump(tmp_path / 'ft.py')
    folder = tmp_path / 'sweep'
    where = ['--executor', 'local', '--parallel', '2']
    output = sweep('plan', folder, '--method', f'ft={tmp_path / "ft.py"}', '--grid', 'ft.1=0.1,0.1000001',
                   '--report-seeds', 0, '--held-out', 0.3, '--gpus-per-run', 0, *where)
    assert output.endswith(f'Next: mmseg-daft sweep run {folder} {" ".join(where)}')
    assert 'Complete.' in sweep('run', folder, '--interval', 0.2, *where)
    sweep('collect', folder)
    subprocess.run(['bash', folder / 'results' / 'commands.sh'], env=dict(os.environ, OUT=str(tmp_path / 'again')),
                   check=True, capture_output=True)
    runs = sorted(path.name for path in (folder / 'runs').iterdir())
    assert len(runs) == 3
    states = []
    for run in runs:
        one = torch.load(folder / 'runs' / run / 'train' / 'iter_2.pth')
        again = torch.load(tmp_path / 'again' / run / 'iter_2.pth')
        assert one['meta']['iter'] == 2
        assert all(torch.equal(again['state_dict'][name], tensor) for name, tensor in one['state_dict'].items())
        states.append(one['state_dict'])
    assert not torch.equal(states[1]['decode_head.conv_seg.weight'], states[2]['decode_head.conv_seg.weight'])
