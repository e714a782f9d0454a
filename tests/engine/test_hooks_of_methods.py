"""The hooks beside the conversion: batch norm in test mode, effective batch; and the zero head in a config."""

import pytest
import torch
from support.pretrained_files import write_start
from support.small_runs import DAFT_VOC, FT_VOC, log_of, small, train

from mmseg_daft.engine.hooks.effective_batch_hook import batch_fix

LINEAR = 'daft/daft_linear_r50-moco_b16-30k_voc12aug-513x513.py'


@pytest.fixture
def config(voc_root, tmp_path):
    def make(name=FT_VOC, **options):
        cfg = small(name, tmp_path / 'run', voc_root, 2)
        write_start(cfg, tmp_path)
        cfg.merge_from_dict(options)
        return cfg
    return make


def test_test_mode_of_one_module_alone(config):
    cfg = config(custom_hooks=[dict(type='BNTestModeHook', modules='decode_head')])
    modes = []
    train(cfg, lambda runner, batch: modes.append(
        {n: m.training for n, m in runner.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}))
    assert len(modes) == 2
    assert all(training != name.startswith('decode_head') for mode in modes for name, training in mode.items())


def test_test_mode_of_a_misspelt_module(config):
    with pytest.raises(ValueError, match="no submodule 'decode_hed'"):
        train(config(custom_hooks=[dict(type='BNTestModeHook', modules='decode_hed')]))


def test_another_effective_batch_is_said_loudly(config):
    runner = train(config(**{'default_hooks.batch.images': 16}))
    text = log_of(runner)
    assert 'EFFECTIVE BATCH 4, NOT 16: 4 images per GPU x 1 GPUs x 1 accumulated' in text
    assert 'Use train_dataloader.batch_size=16' in text
    assert text.count('EFFECTIVE BATCH') == 1


def test_accumulated_iterations_count(config):
    runner = train(config(**{'default_hooks.batch.images': 8, 'optim_wrapper.accumulative_counts': 2}))
    assert 'EFFECTIVE BATCH' not in log_of(runner)


@pytest.mark.parametrize('images, gpus, accumulated, fix', [
    (16, 4, 1, 'train_dataloader.batch_size=4'), (16, 2, 4, 'train_dataloader.batch_size=2'),
    (16, 3, 1, 'a number of GPUs that divides 16'),
    (16, 4, 3, 'a number of GPUs times accumulated iterations that divides 16')])
def test_the_fix_makes_the_batch_what_is_meant(images, gpus, accumulated, fix):
    assert batch_fix(images, gpus, accumulated) == fix


def test_a_batch_as_meant_is_not_mentioned(config):
    assert 'EFFECTIVE BATCH' not in log_of(train(config()))


def test_zeros_for_a_decoder_stop_the_run_and_say_why(config):
    with pytest.raises(ValueError, match='DeepLabV3PlusHead has 17 layers.*stop the gradient'):
        train(config(DAFT_VOC, **{'model.decode_head.init_cfg': dict(type='ZeroHead')}))


def test_zeros_for_a_linear_head(config):
    seen = []
    train(config(LINEAR),
          lambda runner, batch: seen.append(runner.model.decode_head.conv_seg.weight.abs().max().item()))
    assert seen[0] == 0 < seen[1]
