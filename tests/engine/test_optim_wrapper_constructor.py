"""The constructor inside a real runner: groups, rates in the logs, schedules, and what it refuses."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, _ParamScheduler, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.registry import OPTIM_WRAPPERS as MMSEG_WRAPPERS
from support.small_runs import FT_VOC, small, train
from torch import nn

from mmseg_daft.engine import DAFTOptimWrapperConstructor

SGD = dict(type='SGD', momentum=0.9, weight_decay=1e-4)
RATES = dict(backbone_lr=0.01, head_lr=0.1)


@pytest.fixture
def ft(voc_root, tmp_path):
    """Make a config of a small FT run from random weights."""

    def make(name='run', iters=3, **options):
        return small(FT_VOC, tmp_path / name, voc_root, iters, **{'model.backbone.init_cfg': None, **options})

    return make


def model():
    return nn.ModuleDict({'backbone': nn.Linear(3, 2), 'decode_head': nn.Linear(2, 1)})


def scalars(runner):
    lines = next(Path(runner._log_dir).glob('vis_data/scalars.json')).read_text().splitlines()
    return [row for row in map(json.loads, lines) if 'loss' in row]


def build(paramwise_cfg, **wrapper):
    cfg = dict(type='OptimWrapper', optimizer=SGD, constructor='DAFTOptimWrapperConstructor', **wrapper)
    return build_optim_wrapper(model(), dict(cfg, paramwise_cfg=paramwise_cfg))


def test_two_named_groups_with_absolute_rates():
    wrapper = build(dict(RATES))
    assert [(g['name'], g['lr'], g['weight_decay'], len(g['params'])) for g in wrapper.optimizer.param_groups] == [
        ('backbone', 0.01, 1e-4, 2), ('head', 0.1, 1e-4, 2)]
    assert wrapper.get_lr() == {'backbone_lr': [0.01], 'head_lr': [0.1]}


def test_a_runner_that_refused_its_config_is_not_asked(ft):
    """A notebook keeps it in the last traceback, half built."""
    cfg = ft()
    cfg.optim_wrapper = None
    with pytest.raises(ValueError, match='optim_wrapper') as refused:
        train(cfg)
    train(ft('again', iters=1))
    assert refused.traceback


def test_a_group_a_stage_and_one_a_kind_of_decay():
    net = nn.ModuleDict(dict(decode_head=nn.Linear(2, 1), backbone=nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(3, 4, 1), layer1=nn.BatchNorm2d(4), layer2=nn.Conv2d(4, 4, 1)))))
    wrapper = DAFTOptimWrapperConstructor(dict(optimizer=SGD), dict(
        RATES, layer_decay=0.5, stage_lr_mult=dict(stage1=0), norm_decay_mult=0))(net)
    assert [(g['name'], g['lr'], g['weight_decay']) for g in wrapper.optimizer.param_groups] == [
        ('stem', 0.0025, 1e-4), ('stage1_norm', 0, 0), ('stage2', 0.01, 1e-4), ('head', 0.1, 1e-4)]
    assert wrapper.get_lr() == {'stem_lr': [0.0025], 'stage1_lr': [0], 'stage2_lr': [0.01], 'head_lr': [0.1]}
    assert wrapper.rates == dict(stem=0.0025, stage1=0, stage2=0.01, head=0.1)


def test_both_rates_follow_the_schedule_in_log_and_visualizer(ft):
    runner = train(ft(**{'optim_wrapper.paramwise_cfg': RATES, 'param_scheduler.0.end': 4}))
    rows = scalars(runner)
    for i, row in enumerate(rows):  # mmengine reaches eta_min in the last of the 4 iterations
        assert row['backbone_lr'] == pytest.approx(0.01 * (1 - i / 3) ** 0.9)
        assert row['head_lr'] == pytest.approx(0.1 * (1 - i / 3) ** 0.9)
    log = next(Path(runner._log_dir).glob('*.log')).read_text()
    assert 'backbone_lr: 1.0000e-02 head_lr: 1.0000e-01' in log
    assert 'Parameter groups: backbone (lr 0.01' in log


def test_with_equal_rates_the_log_is_that_of_stock_mmseg(ft):
    """Stock: one rate, mmengine's own constructor."""
    ours = scalars(train(ft('ours', iters=4)))
    stock = scalars(train(ft('stock', iters=4, **{
        'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor', 'optim_wrapper.paramwise_cfg': None,
        'optim_wrapper.optimizer.lr': 0.01})))
    for row, other in zip(ours, stock, strict=True):
        assert row['backbone_lr'] == row['head_lr'] == other['lr']
        for key in ('loss', 'decode.loss_ce', 'decode.acc_seg', 'iter', 'step'):
            assert row[key] == other[key]


def test_gradient_accumulation_and_clipping(ft):
    runner = train(ft(iters=4, **{'optim_wrapper.accumulative_counts': 2, 'optim_wrapper.clip_grad': dict(max_norm=1)}))
    rows = scalars(runner)
    assert runner.optim_wrapper._accumulative_counts == 2
    assert [row['iter'] for row in rows] == [1, 2, 3, 4] and 'grad_norm' in rows[-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='mmengine refuses AMP without an accelerator')
def test_amp_on_a_gpu(ft):
    runner = train(ft(**{'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic'}))
    assert isinstance(runner.optim_wrapper, AmpOptimWrapper)
    assert scalars(runner)[-1]['head_lr'] > 0


def test_the_kind_of_wrapper_is_kept():
    class Mine(OptimWrapper):
        pass

    wrapper = DAFTOptimWrapperConstructor(dict(type=Mine, optimizer=SGD), dict(RATES))(model())
    assert isinstance(wrapper, Mine)


def test_resuming_keeps_names_and_rates(ft):
    whole = train(ft('whole', iters=4, **{'optim_wrapper.paramwise_cfg': RATES}))
    train(ft('parts', iters=2, **{'optim_wrapper.paramwise_cfg': RATES}))
    cfg = ft('parts', iters=4, **{'optim_wrapper.paramwise_cfg': RATES})
    cfg.resume = True
    resumed = train(cfg)
    assert [(g['name'], g['lr']) for g in resumed.optim_wrapper.optimizer.param_groups] == [
        (g['name'], g['lr']) for g in whole.optim_wrapper.optimizer.param_groups]


@pytest.mark.parametrize('paramwise_cfg, match', [
    (None, 'lacks backbone_lr'),
    (dict(backbone_lr=0.1), 'lacks head_lr'),
    (dict(backbone_lr=-0.1, head_lr=0.1), 'backbone_lr=-0.1'),
    (dict(backbone_lr='0.1', head_lr=0.1), "backbone_lr='0.1'"),
    (dict(backbone_lr=float('nan'), head_lr=0.1), 'backbone_lr=nan'),
    (dict(RATES, backbone_mult=3, x=1), "does not take 'backbone_mult', 'x'; did you mean 'backbone_"),
    (dict(RATES, custom_keys={}), "does not take 'custom_keys'; it takes backbone_lr.*_delete_=True"),
    (dict(RATES, layer_decay=0), 'layer_decay=0: it has to be a number above 0, up to 1'),
    (dict(RATES, layer_decay=1.1), 'layer_decay=1.1'),
    (dict(RATES, stage_lr_mult=dict(stage1=-1)), "stage_lr_mult={'stage1': -1}: it has to be numbers, 0 or larger"),
    (dict(RATES, stage_lr_mult={}), 'stage_lr_mult={}'),
    (dict(RATES, layer_decay=0.7), 'No layer in backbone is named by a stage'),
    (dict(RATES, head_modules=('head',)), "'decode_head.weight' belongs to none of"),
])
def test_bad_options(paramwise_cfg, match):
    with pytest.raises(ValueError, match=match):
        build(paramwise_cfg)


def test_a_misspelt_wrapper():
    with pytest.raises(ValueError, match=r"type='AmpOptimWraper', which is not registered.*'AmpOptimWrapper'"):
        DAFTOptimWrapperConstructor(dict(type='AmpOptimWraper', optimizer=SGD), dict(RATES))(model())


def test_a_wrapper_that_mmseg_registers_is_found(ft):
    @MMSEG_WRAPPERS.register_module(force=True)
    class RegisteredInMMSeg(OptimWrapper):
        pass

    runner = train(ft(iters=1, **{'optim_wrapper.type': 'RegisteredInMMSeg'}))
    assert isinstance(runner.optim_wrapper, RegisteredInMMSeg)


POLY = dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=10, by_epoch=False)
EPOCHS = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
EPOCH_DATA = dict(type='DefaultSampler', shuffle=True)


@pytest.mark.parametrize('schedulers, match, options', [
    ([dict(POLY, eta_min=1e-4)], r'eta_min=0.0001, above backbone_lr=1e-05.*Set eta_min=0', {}),
    ([dict(type='CosineAnnealingLR', eta_min=1e-4, T_max=10, by_epoch=False)], r'above backbone_lr=1e-05', {}),
    ([dict(type='OneCycleLR', eta_max=0.1, total_steps=10, by_epoch=False)],
     r'OneCycleLR\) replaces the rates.*backbone_lr=1e-05 starts at 0.004, head_lr=0.1 starts at 0.004.*LinearLR', {}),
    ([dict(type='OneCycleLR', eta_max=0.1, total_steps=10, by_epoch=False)], 'replaces the rates',
     {'optim_wrapper.paramwise_cfg.backbone_lr': 0.1}),  # two parts that were given one rate, and get another one
    ([dict(type='LinearLR', start_factor=0.5, end=10, by_epoch=False), dict(type='SetOneRate', by_epoch=False)],
     r'LinearLR, SetOneRate\) replaces', {}),
    ([dict(type='PolyLR', eta_min=0, power=0.9, end=10)], 'counts epochs.*Set by_epoch=False', {}),
    ([dict(type='LinearLR', start_factor=0.1, end=2), POLY], 'LinearLR counts epochs', {}),
    ([POLY], 'waits for the end of an epoch, and InfiniteSampler never ends one.*DefaultSampler',
     {'train_cfg': dict(EPOCHS, _delete_=True)}),
])
def test_a_schedule_that_makes_another_run_is_refused_before_training(ft, schedulers, match, options):
    cfg = ft(**{'optim_wrapper.paramwise_cfg': dict(backbone_lr=1e-5, head_lr=0.1), **options})
    cfg.param_scheduler = schedulers
    iterations = []
    with pytest.raises(ValueError, match=match):
        train(cfg, lambda runner, batch: iterations.append(runner.iter))
    assert not iterations


@PARAM_SCHEDULERS.register_module()
class SetOneRate(_ParamScheduler):
    """A user's schedule that writes one number into all groups."""

    def __init__(self, optimizer, **options):
        super().__init__(optimizer, 'lr', **options)

    def _get_value(self):
        return [0.01 for _ in self.optimizer.param_groups]


@pytest.mark.parametrize('schedulers, first, options', [
    ([dict(type='LinearLR', start_factor=1e-3, begin=0, end=2, by_epoch=False), dict(POLY, begin=2)], 1e-3, {}),
    ([dict(type='CosineAnnealingLR', T_max=10, by_epoch=False)], 1, {}),
    ([dict(type='ReduceOnPlateauLR', monitor='mIoU', rule='greater')], 1, {}),
    ([dict(type='MultiStepLR', milestones=[1], convert_to_iter_based=True)], 1, {}),
    ([], 1, {}),
    ([POLY], 0.25, {'auto_scale_lr': dict(enable=True, base_batch_size=16)}),
    ([dict(type='PolyLR', eta_min=0, power=0.9, end=2)], 1, {
        'train_cfg': dict(EPOCHS, _delete_=True), 'train_dataloader.sampler': EPOCH_DATA,
        'train_dataloader.drop_last': True}),
    ([POLY], 1, {'optim_wrapper.paramwise_cfg.backbone_lr': 0}),
], ids=lambda value: value[0]['type'] if isinstance(value, list) and value else '')
def test_a_schedule_that_keeps_both_rates_passes(ft, schedulers, first, options):
    cfg = ft(iters=1, **{'optim_wrapper.paramwise_cfg': dict(RATES), **options})
    backbone_lr = cfg.optim_wrapper.paramwise_cfg.backbone_lr
    cfg.param_scheduler = schedulers
    seen = []
    train(cfg, lambda runner, batch: seen.append(runner.optim_wrapper.get_lr()))
    assert seen[0] == {'backbone_lr': [pytest.approx(backbone_lr * first)], 'head_lr': [pytest.approx(0.1 * first)]}


def test_a_floor_below_both_rates_passes(ft):
    train(ft(iters=1, **{'param_scheduler.0.eta_min': 1e-4}))


def test_a_resumed_run_does_not_take_other_rates(ft):
    """MMEngine restores the checkpoint's: a changed config would say what is not so."""
    train(ft(iters=1, **{'optim_wrapper.paramwise_cfg': RATES}))
    cfg = ft(iters=2, resume=True, **{'optim_wrapper.paramwise_cfg': dict(RATES, backbone_lr=0.03)})
    with pytest.raises(ValueError, match=r'so backbone_lr=0.03 \(it was 0.01\), .* no effect. Set them back'):
        train(cfg)
    cfg = ft(iters=2, resume=True, **{'optim_wrapper.paramwise_cfg': RATES})
    assert train(cfg).iter == 2
