"""The decoder against a forward pass written out from its weights, and against the recipe's number of parameters."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from support.networks import pretrained


def build(**options):
    register_all_modules(init_default_scope=True)
    cfg = dict(type='DeepLabV3PlusHead', in_channels=16, in_index=3, channels=8, c1_in_channels=6, c1_channels=4,
               dilations=(1, 2, 3), num_classes=5, norm_cfg=dict(type='BN'))
    return MODELS.build({**cfg, **options})


def reference(w, low, high, dilations=(1, 2, 3)):
    """DeepLabv3+'s decoder in eval mode, from a state dict."""

    def layer(name, x, **options):
        x = F.conv2d(x, w[f'{name}.conv.weight'], **options)
        return F.relu(F.batch_norm(x, w[f'{name}.bn.running_mean'], w[f'{name}.bn.running_var'],
                                   w[f'{name}.bn.weight'], w[f'{name}.bn.bias']))

    pooled = F.interpolate(layer('image_pool.1', high.mean((2, 3), keepdim=True)), high.shape[2:], mode='bilinear')
    branches = [
        layer(f'aspp_modules.{i}', high, dilation=d, padding=0 if d == 1 else d) for i, d in enumerate(dilations)]
    x = layer('project.0', torch.cat([pooled, *branches], 1))
    small = layer('c1_project', low)
    x = torch.cat([small, F.interpolate(x, small.shape[2:], mode='bilinear', align_corners=False)], 1)
    return F.conv2d(layer('decode', x, padding=1), w['conv_seg.weight'], w['conv_seg.bias'])


def test_it_computes_deeplabv3plus():
    torch.manual_seed(0)
    head = pretrained(build()).double().eval()
    maps = [torch.randn(2, c, s, s, dtype=torch.float64) for c, s in ((6, 20), (9, 10), (9, 5), (16, 5))]
    with torch.no_grad():
        torch.testing.assert_close(head(maps), reference(head.state_dict(), maps[0], maps[3]), rtol=1e-10, atol=1e-10)


def test_elements_are_dropped_after_the_projection_in_training_alone():
    head = build(dropout_ratio=0.5)
    assert head.dropout is None  # mmseg's own, before the classifier
    x = torch.ones(1, 8, 6, 6)
    kept = head.project[1](x)
    assert set(kept.unique().tolist()) == {0.0, 2.0} and 0.2 < (kept == 0).float().mean() < 0.8
    assert torch.equal(head.eval().project[1](x), x)


def test_the_size_of_the_recipe():
    """ASPP on 2,048 channels: five branches, projection; decoder; counted by hand."""
    head = build(in_channels=2048, channels=256, c1_in_channels=256, c1_channels=48, dilations=(1, 6, 12, 18),
                 num_classes=21)
    bn = 2
    expected = (2 * 256 * (2048 + bn) + 3 * 256 * (9 * 2048 + bn) + 256 * (5 * 256 + bn) + 48 * (256 + bn)
                + 256 * (9 * 304 + bn) + 21 * (256 + 1))
    assert sum(p.numel() for p in head.parameters()) == expected


@pytest.mark.parametrize('size', [33, 48])
def test_logits_have_the_low_level_maps_size(size):
    head = build().eval()
    maps = [torch.randn(1, 6, size, size), None, None, torch.randn(1, 16, -(-size // 4), -(-size // 4))]
    with torch.no_grad():
        assert head(maps).shape == (1, 5, size, size)
