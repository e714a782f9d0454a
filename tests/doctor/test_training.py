"""Doctor says before the start what the training itself would refuse: rates, schedules, loops, hooks."""

import copy
import re

import pytest
import torch
from support.pretrained_files import trained_state
from support.shipped_configs import paste
from support.small_runs import train

from mmseg_daft.doctor.finding import Verdict

OK, WARN, FAIL, SKIP = Verdict


def one_cycle(case):
    case.cfg.param_scheduler = [dict(type='OneCycleLR', eta_max=0.01, total_steps=10, by_epoch=False)]


def counts_epochs(case):
    del case.cfg.param_scheduler[0]['by_epoch']


def endless_epoch(case):
    case.cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
    case.cfg.param_scheduler[0].update(by_epoch=True, end=2)


def repeated(case):
    """As mmseg's DRIVE, STARE, CHASE and HRF repeat theirs."""
    dataset = case.cfg.train_dataloader.dataset
    case.cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=40000, dataset=dataset)
    case.cfg.custom_hooks[0].num_batches = 500


def two_conversions(case):
    case.cfg.custom_hooks += [dict(type='BNConversionHook', modules='decode_head')]


def quoted_flag(case):
    case.cfg.custom_hooks[0]['mean'] = 'False'


def misspelt_argument(case):
    case.cfg.custom_hooks[0]['num_batch'] = 3


def nothing_compared(case):
    case.cfg.custom_hooks += [dict(type='FeatureDistortionHook', modules=('bakbone',))]


@pytest.mark.parametrize('damage, check, found, fix', [
    (two_conversions, 'hooks', 'There are 2 BNConversionHooks', 'Keep one'),
    (quoted_flag, 'hooks', "has mean='False'", 'True or False, without quotation marks'),
    (misspelt_argument, 'hooks', "does not take 'num_batch'", "did you mean 'num_batches'?"),
    (nothing_compared, 'conversion', "no submodule 'bakbone'", "'backbone"),
    (repeated, 'conversion', 'the 13 training images are 4 mini-batches', 'Leave num_batches out'),
    (one_cycle, 'schedule', 'OneCycleLR) replaces the rates of paramwise_cfg', 'LinearLR before for a warm-up'),
    (counts_epochs, 'schedule', 'PolyLR counts epochs', 'Set by_epoch=False'),
    (endless_epoch, 'schedule', 'InfiniteSampler never ends one', "type='DefaultSampler'"),
], ids=lambda value: getattr(value, '__name__', ''))
def test_what_the_training_refuses_is_found_with_its_fix(case, examine, damage, check, found, fix):
    damage(case)
    exam = examine(case.write())
    text = exam.text(check, FAIL)
    assert exam.problems and found in text and fix in text, exam.findings


def partly_pretrained(folder, cityscapes_root, **options):
    """A BiSeNetV1 as mmseg ships it, a ResNet from a file inside a new network, with the README's lines."""
    cfg = paste('bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py', folder, cityscapes_root)
    cfg.model.backbone.init_cfg = None
    inner = cfg.model.backbone.backbone_cfg
    inner.init_cfg = dict(type='Pretrained', checkpoint=str(folder / 'inner.pth'))
    torch.save({'state_dict': trained_state(dict(inner, init_cfg=None))}, folder / 'inner.pth')
    cfg.merge_from_dict(options)
    cfg.val_dataloader = cfg.test_dataloader = copy.deepcopy(cfg.train_dataloader)
    cfg.pop('experiment_name')
    cfg.dump(folder / 'config.py')
    cfg.experiment_name = folder.name
    cfg.update(val_dataloader=None, test_dataloader=None, test_cfg=None, test_evaluator=None)
    return cfg, folder / 'config.py'


def test_a_part_that_is_pretrained_is_named_alike_by_doctor_and_training(tmp_path, cityscapes_root, examine):
    fix = "modules=('backbone.context_path.backbone',); in a config, give paramwise_cfg the same backbone_modules, and"
    cfg, path = partly_pretrained(tmp_path, cityscapes_root)
    with pytest.raises(ValueError, match=re.escape(fix)) as error:
        train(cfg)
    assert '13 of 33 batch-norm layers have the statistics of an untrained layer' in str(error.value)
    text = examine(path).text('conversion', FAIL)
    assert '13 of 33 batch-norm layers are pre-trained by no file' in text and fix in text


@pytest.mark.slow
def test_the_part_and_the_rates_that_are_named_train(tmp_path, cityscapes_root, examine):
    part = ('backbone.context_path.backbone',)
    cfg, path = partly_pretrained(tmp_path, cityscapes_root, **{
        'custom_hooks.0.modules': part, 'optim_wrapper.paramwise_cfg.backbone_modules': part,
        'optim_wrapper.paramwise_cfg.head_modules': ''})
    exam = examine(path)
    assert not exam.text('conversion', FAIL) and '20 of 20' in exam.text('conversion', OK)
    runner = train(cfg)
    groups = {group['name']: len(group['params']) for group in runner.optim_wrapper.optimizer.param_groups}
    assert groups['backbone'] == 60 and sum(groups.values()) == len(list(runner.model.parameters()))


def test_a_priority_of_ones_own_passes(case, examine):
    case.cfg.custom_hooks[0].priority = 49
    assert 'BNConversionHook' in examine(case.write()).text('hooks', OK)


def test_schedules_and_loops_that_train_pass(case, examine):
    case.cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    case.cfg.train_dataloader.sampler.type = 'DefaultSampler'
    case.cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
        dict(type='PolyLR', eta_min=0, power=0.9, begin=1, end=2)]
    exam = examine(case.write())
    assert 'LinearLR, PolyLR: ends with the training' in exam.text('schedule', OK), exam.findings
