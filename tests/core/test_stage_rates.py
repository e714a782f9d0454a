"""Rates per stage: of mmseg's ResNet, of timm's EfficientNet, and of backbones that have no stages."""

import pytest
import torch
from mmseg.models.backbones import ResNet, SwinTransformer, VisionTransformer
from torch import nn

from mmseg_daft.core.parameter_groups import parameter_groups
from mmseg_daft.core.stage_rates import stage_rates


@pytest.fixture
def model():
    return nn.ModuleDict({'backbone': ResNet(18, base_channels=4, stem_channels=4), 'decode_head': nn.Linear(2, 1)})


def groups(model, rate=0.1, **options):
    parts, rates = stage_rates(model, ('backbone',), rate, **options)
    return parameter_groups(model, {**parts, 'head': 'decode_head'}, {**rates, 'head': 1.0})


def test_each_stage_has_its_own_rate_and_each_parameter_is_in_one(model):
    found = groups(model, layer_decay=0.5, stage_lr_mult={'stage2': 0, 'stem': 4})
    assert {group['name']: group['lr'] for group in found} == pytest.approx(
        {'stem': 4 * 0.1 / 16, 'stage1': 0.1 / 8, 'stage2': 0, 'stage3': 0.1 / 2, 'stage4': 0.1, 'head': 1})
    assert [group['name'] for group in found] == ['stem', 'stage1', 'stage2', 'stage3', 'stage4', 'head']
    for name, number in (('stem', ('conv1', 'bn1')), ('stage2', ('layer2',)), ('stage4', ('layer4',))):
        own = [p for part in number for p in model.backbone.get_submodule(part).parameters()]
        group = next(group for group in found if group['name'] == name)
        assert {id(p) for p in group['params']} == {id(p) for p in own}
    assert sum(len(group['params']) for group in found) == len(list(model.parameters()))


def test_a_step_moves_each_stage_by_its_rate(model):
    """A gradient of ones moves each parameter by its rate."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(groups(model, layer_decay=0.7, stage_lr_mult={'stage1': 0}), lr=1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    expected = {'conv1': 0.1 * 0.7 ** 4, 'bn1': 0.1 * 0.7 ** 4, 'layer1': 0, 'layer2': 0.1 * 0.7 ** 2,
                'layer3': 0.1 * 0.7, 'layer4': 0.1, 'weight': 1, 'bias': 1}
    for name, p in model.named_parameters():
        moved = before[name] - p.detach()
        torch.testing.assert_close(moved, torch.full_like(moved, expected[name.split('.')[1]]), rtol=1e-4, atol=1e-6)


def test_blocks_of_an_efficientnet_are_stages():
    timm = pytest.importorskip('timm')
    backbone = timm.create_model('tf_efficientnet_lite0', features_only=True, pretrained=False)
    parts, rates = stage_rates(nn.ModuleDict({'backbone': backbone}), 'backbone', 1.0, layer_decay=0.5)
    assert list(parts) == ['stem', *(f'stage{i}' for i in range(1, 8))]
    assert rates['stage7'] == 1 and rates['stem'] == 0.5 ** 7


@pytest.mark.parametrize('backbone, options, match', [
    (lambda: ResNet(18, base_channels=4), dict(stage_lr_mult={'stage5': 1}),
     r"no stage 'stage5' in backbone; its stages are stem, stage1, .*stage4\. Did you mean 'stage"),
    (lambda: VisionTransformer(img_size=32, embed_dims=8, num_layers=2, num_heads=2), dict(layer_decay=0.7),
     'No layer in backbone is named by a stage.*Leave out layer_decay'),
    (lambda: SwinTransformer(embed_dims=8, depths=(1,) * 4, num_heads=(1,) * 4), dict(layer_decay=0.7),
     "stage of 'backbone.norm0.weight' is unknown.*ResNets"),
    (lambda: nn.ModuleDict({'layer2': nn.Linear(1, 1), 'layer1': nn.Linear(1, 1)}), dict(layer_decay=0.7),
     "stage of 'backbone.layer1.weight' is unknown")])
def test_backbones_without_such_stages_are_refused(backbone, options, match):
    with pytest.raises(ValueError, match=match):
        stage_rates(nn.ModuleDict({'backbone': backbone()}), 'backbone', 0.1, **options)
