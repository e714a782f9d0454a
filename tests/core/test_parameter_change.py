"""Equation 6, its layers in the order of the network, and the drift of statistics."""

import math

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from support.networks import Network, pretrained
from torch import nn

from mmseg_daft.core.distortion import layer_tensors, relative_change, stage_of, statistics_drift


def test_relative_change_is_equation_6():
    assert relative_change(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])) == pytest.approx(1 / 5)
    w, v = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    x, y = w.double().numpy(), v.double().numpy()
    assert relative_change(w, v) == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-12)
    assert relative_change(w, w.clone()) == 0
    assert relative_change(torch.zeros(3), torch.zeros(3)) == 0
    assert relative_change(torch.zeros(3), torch.ones(3)) == math.inf
    with pytest.raises(ValueError, match='not two states of one model'):
        relative_change(torch.ones(2), torch.ones(3))


def test_tensors_come_in_the_order_in_which_the_network_runs():
    backbone = MODELS.build(dict(
        type='ResNet', depth=50, num_stages=4, base_channels=4, stem_channels=4, norm_cfg=dict(type='BN')))
    backbone.eval()
    model = nn.Module()
    model.backbone, model.decode_head = backbone, nn.Conv2d(1, 1, 1)
    tensors = list(layer_tensors(model))
    ran = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    backbone(torch.zeros(1, 3, 64, 64))
    assert list(dict.fromkeys(tensor.layer for tensor in tensors)) == ran
    assert [sum(t.kind == kind for t in tensors) for kind in ('conv_weight', 'bn_weight', 'bn_variance')] == [53] * 3
    stages = [tensor.stage for tensor in tensors if tensor.kind == 'conv_weight']
    assert [stages.count(stage) for stage in ('stem', '1', '2', '3', '4')] == [1, 10, 13, 19, 10]
    assert stages == sorted(stages, key=['stem', '1', '2', '3', '4'].index)
    assert {tensor.name for tensor in tensors} < set(model.state_dict())


def test_stages_by_name():
    names = ('backbone.conv1', 'backbone.layer3.0.bn1', 'backbone.stage2.0.branches', 'backbone.stages.0.1.norm')
    assert [stage_of(name) for name in names] == ['stem', '3', '2', '1']
    names = ('decode_head.convs.0.bn', 'neck.layer1.bn')
    assert [stage_of(name) for name in names] == ['decode_head.convs', 'neck.layer1']


def test_the_stages_of_hrnet():
    extra = {f'stage{i + 1}': dict(num_modules=1, num_branches=i + 1, block='BOTTLENECK' if i == 0 else 'BASIC',
                                   num_blocks=(1,) * (i + 1), num_channels=(4, 8, 16, 32)[:i + 1]) for i in range(4)}
    model = nn.Module()
    model.backbone = MODELS.build(dict(type='HRNet', extra=extra))
    stages = {name: stage_of(name) for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert {stage for name, stage in stages.items() if name.startswith('backbone.stage2.')} == {'2'}
    assert {name for name, stage in stages.items() if stage == 'stem'} == {'backbone.bn1', 'backbone.bn2'}
    assert {stages[name] for name in stages if name.startswith('backbone.transition2.')} == {'3'}
    assert set(stages.values()) == {'stem', '1', '2', '3', '4'}


def test_drift_equals_the_reference_and_is_none_for_the_same():
    a, b = (pretrained(Network(2, 1), seed).state_dict() for seed in (0, 1))
    drift = statistics_drift('norms.0', a, b, 1e-5)
    m, v, m2, v2 = (s[f'norms.0.running_{t}'].double().numpy() for s in (a, b) for t in ('mean', 'var'))
    assert drift.mean_shift == pytest.approx(np.mean(np.abs(m2 - m) / np.sqrt(v + 1e-5)), rel=1e-12)
    assert drift.log_var_ratio == pytest.approx(np.mean(np.abs(np.log((v2 + 1e-5) / (v + 1e-5)))), rel=1e-12)
    assert statistics_drift('norms.0', a, a, 1e-5) == (0, 0)
