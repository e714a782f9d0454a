"""``mmseg-daft sweep`` of classifiers: selected on validation images, by accuracy; LP is the probe."""

import argparse
import json
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from support.classification import DAFT_CIFAR, small_classifier, write_classifier_start

from mmseg_daft import cli
from mmseg_daft.engine.checkpoints import read_checkpoint
from mmseg_daft.run_output import checkpoint_number, records
from mmseg_daft.sweep import plan
from mmseg_daft.sweep.command import add_arguments, read_sweep
from mmseg_daft.sweep.folder import SweepFolder
from mmseg_daft.sweep.job import TrainJob
from mmseg_daft.sweep.protocol import Sweep, protocols

DIGITS = 'classification/{}_linear_efficientnet-lite0_b64-5e_digits-64x64.py'
METRIC = 'accuracy/top1'


@pytest.fixture
def write(tasks, tmp_path):
    """Return a function that writes a config's small copy and returns its path."""
    def config(name, method, **options):
        cfg = small_classifier(name, tmp_path / 'unused', tasks, **options)
        if method != 'lpft':  # which starts from a run of the sweep
            write_classifier_start(cfg, tmp_path)
        for key in ('experiment_name', 'work_dir'):
            cfg.pop(key)
        cfg.dump(tmp_path / f'{method}.py')
        return f'{method}={tmp_path / method}.py'
    return config


def accuracy(config, checkpoint, loader):
    """Of a checkpoint on a loader's images, in an own loop."""
    cfg = Config.fromfile(config)
    model, dataset = MODELS.build(cfg.model), DATASETS.build(cfg[loader].dataset)
    model.load_state_dict(read_checkpoint(str(checkpoint))[0])
    images = torch.stack([dataset[i]['inputs'] for i in range(len(dataset))])
    model.eval()
    with torch.no_grad():
        predicted = model(model.data_preprocessor(dict(inputs=list(images)))['inputs']).argmax(1)
    return 100 * (predicted.numpy() == dataset.get_gt_labels()).mean()


@pytest.mark.slow
def test_lpft_starts_from_the_probe_and_the_best_epoch_counts(write, sweep, tmp_path):
    options = {'epochs': 2, 'train_cfg.val_interval': 1, 'default_hooks.checkpoint.interval': 1,
               'train_dataloader.dataset.indices': [*range(0, 512, 8)], 'train_dataloader.batch_size': 16,
               'default_hooks.batch.images': 16, 'val_dataloader.dataset.indices': [*range(0, 256, 4)],
               'test_dataloader.dataset.indices': [*range(0, 1024, 16)], 'test_cfg.only': ['rendered'],
               'test_cfg.domains.rendered.indices': [*range(0, 1000, 20)]}
    methods = [word for method in ('lpft', 'lp') for word in ('--method', write(
        DIGITS.format(method), method, **options))]
    path = tmp_path / 'sweep'
    output = sweep('plan', path, *methods, '--grid', 'lpft.1=0.003', '--report-seeds', 0, '--gpus-per-run', 0)
    assert 'lp step1 1 0 0 0 lp report 1 0 0 0' in output and '4 runs of 2 epochs; plan with --probe 1' in output
    folder, results = SweepFolder.load(path), {}
    assert (folder.sweep.metric, folder.sweep.iterations, folder.validation, folder.held_out) == (METRIC, 8, 'val', 0)
    for name in ('lp_step1_', 'lpft_step1_', 'lp_report_'):
        run, = (run for run in folder.look(set()).start if run.name.startswith(name))
        place = folder.describe(run)
        if run.method == 'lp':  # the job finds it done and tests it: one process less
            assert cli.main(['probe', *place.description()['command'][2:]]) == 0
        assert TrainJob(place.path)() == 'done'
        result = results[name] = place.result()
        part = 'val_dataloader' if 'step' in name else 'test_dataloader'
        assert result['value'] == pytest.approx(accuracy(
            folder.frozen_config(run.method, run.stage), result['checkpoint'], part), abs=1e-3)
    probe = read_checkpoint(results['lp_step1_']['checkpoint'])[1]['meta']['probe']
    assert results['lp_step1_']['value'] == pytest.approx(probe['accuracy'], abs=1e-3)
    described = json.loads(next(path.glob('runs/lpft_step1_*/run.json')).read_text())
    assert f"model.init_cfg.checkpoint={results['lp_step1_']['checkpoint']}" in described['command']
    epochs = {record['step']: record[METRIC] for record in records(next(path.glob('runs/lpft_step1_*/train')))
              if METRIC in record}
    best = checkpoint_number(next(path.glob('runs/lpft_step1_*/train/best_accuracy_top1_epoch_*.pth')))
    assert len(epochs) == 2 and results['lpft_step1_']['value'] == round(epochs[best], 4) == max(
        round(value, 4) for value in epochs.values())

    assert 'missing: lpft_report_' in sweep('collect', path, code=1)
    table, commands = ((path / 'results' / name).read_text() for name in ('table.md', 'commands.sh'))
    for heading, key in ((METRIC, METRIC), (f'rendered/{METRIC}', f'rendered/{METRIC}')):
        value = f"{results['lp_report_']['metrics'][key]:.2f}"
        assert re.search(rf'\| method \| {heading} % .*\n.*\n\| LP \| {value} \| 1 \| -- \| -- \|', table)
    assert 'of the model that is best on the validation images' in table and 'held out' not in table
    assert re.search(rf'lp_step1_.*{METRIC} .* \(val\)', commands) and 'tools/probe.py' in commands


def test_cifar10_is_selected_on_its_test_images_also_in_the_released_search(write, sweep, tmp_path):
    """As in the authors' code; its first step has no conversion."""
    path = tmp_path / 'sweep'
    output = sweep('plan', path, '--method', write(DAFT_CIFAR, 'daft'), '--search', 'released', '--grids-of', 'cifar',
                   '--gpus-per-run', 0)
    assert 'daft step1- 4 0.0001, 3e-05, 1e-05, 3e-06 1 0 plain daft step2 4' in output
    folder = SweepFolder.load(path)
    assert (folder.epochs, folder.sweep.iterations, folder.validation) == (1, 2, 'test')
    stages = [Config.fromfile(folder.frozen_config('daft', stage), import_custom_modules=False)
              for stage in ('step1-plain', 'step2', 'report')]
    assert [cfg.custom_hooks[0].type for cfg in stages] == ['BNTestModeHook', 'BNConversionHook', 'BNConversionHook']
    assert [cfg.test_cfg.type for cfg in stages] == ['TestLoop', 'TestLoop', 'DomainsTestLoop']
    for cfg in stages:
        assert cfg.val_dataloader == cfg.test_dataloader and cfg.train_dataloader.dataset.indices == 8
        assert cfg.default_hooks.checkpoint.save_best == METRIC and cfg.train_cfg.val_interval == 1
    assert sweep('collect', path, code=1)
    assert 'of the model that is best on the test images' in (path / 'results' / 'table.md').read_text()


@pytest.mark.parametrize(('words', 'message'), [
    (['--held-out', '0.2'], "--held-out: a classifier's rates are selected on the validation images of its config"),
    (['--held-out-seed', '0'], '--held-out: a classifier'),
    (['--grid', 'lp.1=0.1'], '--grid lp.1=0.1: LP of a classifier is a logistic regression, which has no rate')])
def test_options_that_classifiers_lack_are_refused(words, message):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit, match=message):
        read_sweep(parser.parse_args(['plan', 'folder', '--method', 'lp=x.py', *words]), 2, 'val')


@pytest.mark.parametrize(('change', 'message'), [
    ({'val_evaluator.topk': (5,)}, 'its val_evaluator measures accuracy/top5, and accuracy/top1 selects'),
    ({'train_cfg.max_epochs': 2}, 'trains for 2 epochs, the others for 1 epochs'),
    ({'val_dataloader.dataset.split': 'train'}, 'or validates on other images'),
    ({'default_hooks.checkpoint.by_epoch': False}, 'its CheckpointHook counts others. Set .*by_epoch=True')])
def test_configs_that_do_not_fit_the_sweep_are_refused(change, message, tasks, tmp_path):
    cfg = small_classifier(DAFT_CIFAR.replace('daft', 'ft'), tmp_path, tasks, **change)
    sweep = Sweep({'ft': protocols()['ft']}, metric=METRIC, iterations=2)
    folder = SweepFolder(tmp_path, sweep, dict(ft='ft.py'), 0, '', 0, epochs=1, validation='test')
    with pytest.raises(SystemExit, match=message):
        plan.check(folder, 'ft', cfg)


def test_a_domain_that_is_not_there_and_a_head_that_is_not_linear_are_refused_by_the_plan(write, sweep, tmp_path):
    for name, change, message in (
            ('ft', {'test_cfg.domains.stl10.data_root': 'nowhere'}, r'its test_cfg.domains.stl10 cannot be .*nowhere'),
            ('lp', {'model.head.type': 'StackedLinearClsHead', 'model.head.mid_channels': [8]},
             'needs a LinearClsHead, not StackedLinearClsHead')):
        config = write(DAFT_CIFAR.replace('daft', name), name, **change)
        output = sweep('plan', tmp_path / 'sweep', '--method', config, '--gpus-per-run', 0, code=1)
        assert re.search(message, output) and not (tmp_path / 'sweep' / 'sweep.json').exists()
