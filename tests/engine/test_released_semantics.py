"""Ours beside what the authors' code computes (tests/support/released.py), in float64 and step by step."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from support import released
from support.networks import Network, pretrained
from support.pretrained_files import write_start
from support.small_runs import CONFIGS, Probe, small
from timm.layers import BatchNormAct2d
from torch import nn

from mmseg_daft.core import convert_batch_norm

STEPS = 4
LINEAR = Config.fromfile(CONFIGS / '_base_' / 'models' / 'linear_r18-day.py').model.decode_head


class Start(Hook):
    """Copy backbone and head as they are before any other hook has touched them."""

    priority = 'HIGHEST'

    def before_train(self, runner):
        self.parts = copy.deepcopy((runner.model.backbone, runner.model.decode_head.conv_seg))


class Seen:
    """What a run is like before each of its steps."""

    def __init__(self):
        self.batches, self.first, self.states, self.modes, self.rates = [], None, [], [], []

    def data(self, preprocessor, args, data):
        """Let the model compute in float64, and keep what it is given."""
        data['inputs'] = data['inputs'].double()
        self.batches.append((data['inputs'], torch.stack([s.gt_sem_seg.data[0] for s in data['data_samples']])))

    def __call__(self, runner, batch):
        self.first = len(self.batches) if self.first is None else self.first  # what came before, the pass saw
        model, names = runner.model, {id(p): name for name, p in runner.model.named_parameters()}
        self.states.append(state_of(model))
        self.modes.append({layer.training for layer in released.batch_norms(model).values()})
        self.rates.append({names[id(p)]: group['lr'] for group in runner.optim_wrapper.optimizer.param_groups
                           for p in group['params']})


def state_of(model):
    return {name.replace('decode_head.conv_seg', 'head'): tensor.clone() for name, tensor in model.state_dict().items()}


def config(name, data, folder):
    """A method's CamVid config, small, with the linear head of configs/_base_/models and nothing to evaluate."""
    method = name.partition(',')[0]
    room = method if method in ('lp', 'ft', 'lpft', 'daft') else 'ablation'
    cfg = small(f'{room}/{method}_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py', folder / 'run', data, STEPS)
    cfg.model.decode_head = copy.deepcopy(LINEAR)
    cfg.model.decode_head.update(in_channels=32, channels=32)
    del cfg.default_hooks['evaluation'], cfg.train_cfg['val_interval']
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    write_start(cfg, folder)
    return cfg


def run(cfg):
    """Train in float64; return the runner, the start and what was seen."""
    runner, start, seen = Runner.from_cfg(cfg), Start(), Seen()
    runner.model.double().data_preprocessor.register_forward_hook(seen.data)
    for hook in (start, Probe(seen)):
        runner.register_hook(hook)
    runner.train()
    seen.states.append(state_of(runner.model))
    return runner, start, seen


def compare(name, cfg, factors):
    method = released.METHODS[name]
    runner, start, seen = run(cfg)
    target, batches = [images for images, _ in seen.batches[:seen.first]], seen.batches[seen.first:]
    assert [len(images) for images in target] == [4, 2] * method.convert  # every image once, the short batch included
    paramwise, weight_decay = cfg.optim_wrapper.paramwise_cfg, cfg.optim_wrapper.optimizer.weight_decay
    rates = paramwise.backbone_lr, paramwise.head_lr
    factors = [factors(step) for step in range(len(batches))]
    expected = [*released.train(method, *start.parts, target, batches, rates, factors, weight_decay)]
    assert len(expected) == len(seen.states) == STEPS + 1
    for step, (one, other) in enumerate(zip(expected, seen.states)):
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            error = (other[key] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-30)
            assert error < 1e-10, f'{key} before step {step}: {error}'
    assert seen.modes == STEPS * [{not method.eval_mode}]
    for now, factor in zip(seen.rates, factors):
        assert now == pytest.approx({key: factor * rates[key.startswith('decode_head')] for key, _ in
                                     runner.model.named_parameters() if key.startswith('decode_head')
                                     or not method.head_only})
    moved = [key for key, tensor in expected[-1].items() if not torch.equal(tensor, expected[0][key])]
    assert any(key.startswith('backbone') for key in moved) != method.head_only  # the comparison is about something


@pytest.mark.parametrize('name', [
    name if name == 'daft' else pytest.param(name, marks=pytest.mark.slow) for name in released.METHODS])
def test_every_method_trains_as_the_authors_code_does(name, camvid_layout, tmp_path):
    cfg = config(name, camvid_layout, tmp_path)
    if released.METHODS[name].zero_head:
        cfg.model.decode_head.init_cfg = dict(type='ZeroHead')
    if name.endswith('as its file says'):
        cfg.custom_hooks.append(dict(type='BNTestModeHook'))
    last = cfg.param_scheduler[0]['end'] - 1  # MMEngine's schedule is at 0 in the last iteration, not after it
    compare(name, cfg, lambda step: (1 - step / last) ** 0.9)


@pytest.mark.slow
def test_daft_with_the_authors_schedule(camvid_layout, tmp_path):
    """By epochs, a cosine over them, without weight decay."""
    cfg = config('daft', camvid_layout, tmp_path)
    cfg.model.decode_head.init_cfg = dict(type='ZeroHead')
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    cfg.param_scheduler = [dict(type='CosineAnnealingLR', T_max=2)]
    cfg.optim_wrapper.optimizer.weight_decay = 0
    compare('daft', cfg, lambda step: (1 + math.cos(math.pi * (step // 2) / 2)) / 2)


def batches_of(*sizes, side=6):
    generator = torch.Generator().manual_seed(0)
    return [2 + 3 * torch.randn(size, 5, side, side, generator=generator, dtype=torch.float64) for size in sizes]


def test_a_model_converts_to_the_same_tensors():
    """All of its batch norm, as there; a layer that runs twice counts twice, and an uneven last batch as one."""
    ours = pretrained(Network(2, 3, shared=True).double())
    theirs, batches = copy.deepcopy(ours), batches_of(4, 4, 1)
    convert_batch_norm(ours, batches)
    released.convert(theirs, batches)
    for (name, one), other in zip(ours.state_dict().items(), theirs.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=name)


def test_layers_that_do_more_than_batch_norm_are_converted_right():
    """Theirs replaces such a layer's forward by batch norm alone, so the layers behind it see other inputs."""
    torch.manual_seed(0)
    layers = [part for _ in range(2) for part in (nn.Conv2d(5, 5, 3), BatchNormAct2d(5))]
    model, batches = pretrained(nn.Sequential(*layers).double()).eval(), batches_of(4, 4, 2)
    right = []
    for end in (1, 3):
        inputs = [model[:end](images).detach() for images in batches]
        right.append(torch.stack([sum(x.mean((0, 2, 3)) for x in inputs), sum(x.var((0, 2, 3)) for x in inputs)]) / 3)
    theirs = [torch.stack(pair) for pair in released.statistics(model, batches).values()]
    before = model(batches[0])
    ours = [torch.stack([layer.mean, layer.var]) for layer in convert_batch_norm(model, batches).statistics.values()]
    for one, other in zip(ours, right):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(batches[0]), before, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(theirs[0], right[0], rtol=1e-12, atol=1e-12)
    assert (theirs[1] - right[1]).abs().max() > 0.1


def test_a_mini_batch_without_variance_is_left_out():
    """Theirs is NaN from then on: one image whose map is a single pixel."""
    model, batches = pretrained(nn.Sequential(nn.BatchNorm2d(5)).double()), batches_of(4, 1, side=1)
    assert released.statistics(model, batches)['0'][1].isnan().all()
    ours = convert_batch_norm(model, batches).statistics['0']
    mean, var = released.statistics(model, batches[:1])['0']
    assert torch.allclose(ours.mean, mean, rtol=1e-12) and torch.allclose(ours.var, var, rtol=1e-12)
