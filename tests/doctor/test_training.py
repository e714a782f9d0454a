"""Doctor says before the start what the training itself would refuse: rates, schedules, loops, hooks."""

import copy
import json
import re

import pytest
import torch
from support.pretrained_files import trained_state
from support.shipped_configs import paste
from support.small_runs import train

from mmseg_daft.cli import main
from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.doctor.finding import Verdict
from mmseg_daft.engine.convert_model import RECORD

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


FAMILIES = {  # the shipped config; the modules that a file fills; how many layers of the backbone it does not
    'BiSeNetV1': ('bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py',
                  ('backbone.context_path.backbone',), '13 of 33'),
    'STDC': ('stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', ('backbone.backbone',), '8 of 37'),
    'ICNet': ('icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py', ('backbone.backbone',), '10 of 32'),
    'DDRNet': ('ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py', tuple(
        f'backbone.{part}' for part in ('stem', 'context_branch_layers', 'compression_1', 'down_1', 'compression_2',
                                        'down_2', 'spatial_branch_layers')), '11 of 53')}


def partly_pretrained(family, folder, cityscapes_root, **options):
    """A network as mmseg ships it, with a part of its backbone from a file, and the README's lines."""
    cfg = paste(FAMILIES[family][0], folder, cityscapes_root)
    inner = cfg.model.backbone.get('backbone_cfg', cfg.model.backbone)
    state = trained_state(dict(inner, init_cfg=None))
    torch.save({'state_dict': {name: tensor for name, tensor in state.items() if not name.startswith('spp.')}},
               folder / 'inner.pth')
    cfg.model.backbone.init_cfg = None
    inner.init_cfg = dict(type='Pretrained', checkpoint=str(folder / 'inner.pth'))
    cfg.merge_from_dict(options)
    cfg.val_dataloader = cfg.test_dataloader = copy.deepcopy(cfg.train_dataloader)
    cfg.pop('experiment_name')
    cfg.dump(folder / 'config.py')
    cfg.experiment_name = folder.name
    cfg.update(val_dataloader=None, test_dataloader=None, test_cfg=None, test_evaluator=None)
    return cfg, folder / 'config.py'


@pytest.mark.parametrize('family', FAMILIES)
def test_a_part_that_is_pretrained_is_named_alike_by_doctor_and_training(family, tmp_path, cityscapes_root, examine):
    _, part, untrained = FAMILIES[family]
    fix = f'modules={part!r}; in a config, give paramwise_cfg the same backbone_modules, and'
    cfg, path = partly_pretrained(family, tmp_path, cityscapes_root)
    with pytest.raises(ValueError, match=re.escape(fix)) as error:
        train(cfg)
    assert f'{untrained} batch-norm layers have the statistics of an untrained layer' in str(error.value)
    exam = examine(path)
    text = exam.text('conversion', FAIL)
    assert f'{untrained} batch-norm layers are pre-trained by no file' in text and fix in text
    assert not exam.failed('weights', 'classes', 'rates', 'training step'), exam.findings


@pytest.mark.slow
@pytest.mark.parametrize('family', ['STDC', 'DDRNet'])  # a head for boundaries; one map in eval mode, two in train
def test_the_part_and_the_rates_that_are_named_go_through_to_the_end(family, tmp_path, cityscapes_root):
    _, part, _ = FAMILIES[family]
    cfg, path = partly_pretrained(family, tmp_path, cityscapes_root, **{
        'custom_hooks.0.modules': part, 'optim_wrapper.paramwise_cfg.backbone_modules': part,
        'optim_wrapper.paramwise_cfg.head_modules': ''})
    runner = train(cfg)
    converted = {*find_batch_norms(runner.model, part)}
    assert runner.iter == 2 and {*runner.message_hub.get_info(RECORD)['shifts']} == converted
    groups = {group['name']: len(group['params']) for group in runner.optim_wrapper.optimizer.param_groups}
    trained = [name for name, parameter in runner.model.named_parameters() if parameter.requires_grad]
    inside = [name for name in trained if name.startswith(tuple(f'{scope}.' for scope in part))]
    assert groups == {'backbone': len(inside), 'head': len(trained) - len(inside)}

    source, out = tmp_path / 'source.pth', tmp_path / 'converted.pth'
    torch.save({'state_dict': trained_state(cfg.model)}, source)
    assert main(['convert', str(path), str(source), str(out)]) == 0
    before, after = (torch.load(file)['state_dict'] for file in (source, out))
    changed = {name.rpartition('.')[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == converted
    for start in ([], [str(source)]):
        assert main(['domain-gap', str(path), *start, '--out', str(tmp_path / f'gap{len(start)}')]) == 0
        report = json.loads((tmp_path / f'gap{len(start)}' / 'gap.json').read_text())
        assert {row['layer'] for row in report['layers']} == converted and 0 <= report['accuracies']['source'] <= 1


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
