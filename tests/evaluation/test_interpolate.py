"""Models between a start and its fine-tuned end: the weights, their statistics, what the command writes."""

import contextlib
import copy
import csv

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmseg_daft.analysis.runs import load_run, load_start
from mmseg_daft.cli import main
from mmseg_daft.engine.convert_model import CONVERTED
from mmseg_daft.engine.training_data import TargetLoader
from mmseg_daft.evaluation.interpolation import layers_by_batch, line_between

CPU = torch.device('cpu')


@pytest.fixture
def cfg(case):
    init_default_scope('mmseg')
    return Config.fromfile(case.config)


def ends(case, cfg, method='daft', start=None):
    return load_run(cfg, 'START', start or case.start, CPU), load_run(cfg, 'END', case.checkpoint(method), CPU)


def is_statistic(name):
    return name.endswith(('running_mean', 'running_var'))


def test_the_line_runs_from_the_converted_start_to_the_end(case, cfg):
    line = line_between(cfg, *ends(case, cfg))
    content = torch.load(case.checkpoint('daft'))
    source = {**torch.load(case.start)['state_dict'], **content['message_hub']['runtime_info'][CONVERTED]}
    assert 'converted as before the training' in line.words and len(source) == len(content['state_dict'])
    for alpha in (0, 0.3, 1):  # at 0 the first layer sees what the conversion's pass saw
        for name, tensor in line.model(alpha, cfg).state_dict().items():
            first, last = source[name], content['state_dict'][name]
            if name.endswith('num_batches_tracked'):
                assert tensor == last == 2
            elif is_statistic(name):
                assert not torch.equal(tensor, last), name
                assert torch.equal(tensor, first) == (alpha == 0 and name.startswith('backbone.bn1.')), name
            elif alpha in (0, 1):
                assert torch.equal(tensor, last if alpha else first), name
            else:
                first, last = (np.asarray(end, np.float64) for end in (first, last))
                np.testing.assert_array_max_ulp(tensor.numpy(), (first + 0.3 * (last - first)).astype(np.float32), 1)


def test_statistics_are_those_of_the_training_data_under_the_weights_between(case, cfg):
    model = line_between(cfg, *ends(case, cfg)).model(0.5, cfg)
    means = [model.backbone.conv1(model.data_preprocessor(batch)['inputs'].float()).detach().mean((0, 2, 3))
             for batch in TargetLoader(Runner.build_dataloader(cfg.train_dataloader, seed=0), seed=0)]
    torch.testing.assert_close(model.backbone.bn1.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


def test_where_nothing_was_converted_the_start_is_as_it_is(case, cfg):
    line = line_between(cfg, *ends(case, cfg, 'ft'))
    start = torch.load(case.start)['state_dict']
    assert all(torch.equal(tensor, start[name]) for name, tensor in line.start.items())
    assert 'converted' not in line.words


@pytest.mark.parametrize('by_config', [True, False])
def test_a_start_without_a_decoder_moves_the_backbone_alone(case, cfg, by_config):
    lacks = case.changed('backbone.pth', case.start, lambda content: [
        content['state_dict'].pop(name) for name in list(content['state_dict']) if name.startswith('decode_head.')])
    cfg.model.backbone.init_cfg.checkpoint = str(lacks)
    start = load_start(cfg, None, CPU) if by_config else load_run(cfg, 'START', lacks, CPU)
    line = line_between(cfg, start, ends(case, cfg)[1])
    assert f'The backbone moves; {lacks} has no decoder' in line.words
    end, moved = line.end.state_dict(), line.model(0.5, cfg).state_dict()
    for name, tensor in moved.items():
        if not is_statistic(name) and not name.endswith('num_batches_tracked'):
            assert torch.equal(tensor, end[name]) != name.startswith('backbone.'), name


def test_statistics_that_training_did_not_normalize_by_are_weights(case, cfg):
    model = load_run(cfg, 'END', case.checkpoint('ft'), CPU).model
    everywhere = layers_by_batch(cfg, model)
    assert len(everywhere) == 28 and not any(module.training for module in model.modules())
    cfg.custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
    assert list(layers_by_batch(cfg, model)) == [name for name in everywhere if name.startswith('decode_head.')]
    cfg.custom_hooks = [dict(type='BNTestModeHook')]
    line = line_between(cfg, *ends(case, cfg, 'ft'))
    middle, start, end = line.model(0.5, cfg).state_dict(), line.start, line.end.state_dict()
    torch.testing.assert_close(middle['backbone.bn1.running_var'],
                               (start['backbone.bn1.running_var'] + end['backbone.bn1.running_var']) / 2)
    cfg.custom_hooks = []
    cfg.model.backbone.norm_eval = True
    assert not any(name.startswith('backbone.') for name in layers_by_batch(
        cfg, load_run(cfg, 'END', case.checkpoint('ft'), CPU).model))


def test_auxiliary_heads_which_files_may_lack_are_left_out(case, cfg):
    cfg.model.auxiliary_head = dict(type='FCNHead', in_channels=16, in_index=2, channels=4, num_classes=6)
    model = line_between(cfg, *ends(case, cfg)).model(0.5, cfg)
    assert not any(name.startswith('auxiliary_head') for name in model.state_dict())


def interpolate(case, *words, out='curve'):
    return main(['interpolate', *map(str, words), '--workers', '0', '--out', str(case.folder / out)])


@pytest.mark.slow
def test_the_command_measures_each_model_as_mmseg_does(case, cfg, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    further = copy.deepcopy(cfg.test_dataloader.dataset)
    further.ann_file = 'ImageSets/Segmentation/train.txt'
    further.pop('pipeline')
    sets = case.folder / 'sets.py'
    sets.write_text(f'sets = dict(elsewhere={further.to_dict()!r})')
    words = case.config, case.start, case.checkpoint('daft'), '--alphas', '1', '0', '0.5', '--sets', sets, '--save'
    assert interpolate(case, *words) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines() if not line.startswith(('Note', 'Report')))
    out = case.folder / 'curve'
    with (out / 'curve.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [(float(row['alpha']), row['set'], row['images']) for row in rows] == [
        (alpha, *of) for alpha in (0, 0.5, 1) for of in (('test', '7'), ('elsewhere', '7'))]
    assert (out / 'curve.png').stat().st_size > 10_000
    for row in rows:
        assert float(row['interval_low']) <= float(row['miou']) <= float(row['interval_high'])
        assert f'{100 * float(row["miou"]):.2f}' in said

    assert sorted(path.name for path in out.glob('*.pth')) == ['alpha_0.5.pth', 'alpha_0.pth', 'alpha_1.pth']
    cfg.update(load_from=str(out / 'alpha_0.5.pth'), experiment_name='between', work_dir=str(case.folder / 'between'))
    cfg.visualizer.name = 'between'
    for row in rows[2:4]:
        if row['set'] == 'elsewhere':
            cfg.test_dataloader.dataset.ann_file = further.ann_file
            cfg.experiment_name = cfg.visualizer.name = 'between elsewhere'
        miou = Runner.from_cfg(cfg).test()['mIoU']
        assert miou == pytest.approx(100 * float(row['miou']), abs=0.00501)  # mmseg rounds

    counted = {path: path.stat().st_mtime_ns for path in (out / 'cells').iterdir()}
    assert interpolate(case, *words) == 0  # nothing is counted again
    assert counted == {path: path.stat().st_mtime_ns for path in (out / 'cells').iterdir()}


def test_what_cannot_be_interpolated_is_refused_by_name(case, cfg, capsys):
    def refused(start, end, *words, says):
        with contextlib.suppress(SystemExit):
            assert interpolate(case, case.config, start, end, *words, out='refused') == 1
        said = ' '.join(capsys.readouterr().err.split())
        assert says in said and 'Traceback' not in said, said

    def pop(prefix):
        return lambda content: [content['state_dict'].pop(name) for name in list(content['state_dict'])
                                if name.startswith(prefix)]

    daft = case.checkpoint('daft')
    refused(case.start, daft, '--alphas', '0', '1.5', says='give a number from 0 to 1, not')
    refused(case.start, case.changed('headless.pth', daft, pop('decode_head.')), says='headless.pth has no decoder')
    refused(case.changed('short.pth', case.start, pop('backbone.layer4.1.conv2')), daft,
            says='backbone.layer4.1.conv2.weight')
    refused(case.changed('wide.pth', case.start, lambda content: content['state_dict'].update(
        {'backbone.conv1.weight': torch.zeros(8, 3, 7, 7)})), daft,
            says='backbone.conv1.weight (8, 3, 7, 7) in the file')
    refused(case.checkpoint('ft'), daft, says='converted from another pre-trained model')
    refused('config', daft, '--cfg-options', 'model.backbone.init_cfg=None', says='or for interpolate as START')
    refused(case.folder / 'nowhere.pth', daft, says='nowhere.pth')
    assert not (case.folder / 'refused').exists()
