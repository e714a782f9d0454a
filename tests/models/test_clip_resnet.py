"""CLIPResNet against CLIP's network written out in float64 functions, and its modes through training."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from support.networks import pretrained
from torch import nn

from mmseg_daft.models import CLIPResNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def clip_maps(state, image, depth, strides, dilations):
    """The maps of CLIP's image network (github.com/openai/CLIP), computed from its released names alone."""
    def layer(x, conv, norm, **options):
        x = F.conv2d(x, state[f'{conv}.weight'], **options)
        return F.batch_norm(x, *(state[f'{norm}.{kind}'] for kind in ('running_mean', 'running_var', 'weight', 'bias')))

    x = image
    for number in '123':
        x = F.relu(layer(x, f'conv{number}', f'bn{number}', stride=2 if number == '1' else 1, padding=1))
    x = F.avg_pool2d(x, 2)
    maps = []
    for stage, (count, stride, dilation) in enumerate(zip(BLOCKS[depth], strides, dilations), start=1):
        for number in range(count):
            block, first = f'layer{stage}.{number}', number == 0
            rate = max(1, dilation // 2) if first else dilation
            y = F.relu(layer(x, f'{block}.conv1', f'{block}.bn1'))
            y = F.relu(layer(y, f'{block}.conv2', f'{block}.bn2', padding=rate, dilation=rate))
            if first and stride > 1:
                y = F.avg_pool2d(y, stride)
            y = layer(y, f'{block}.conv3', f'{block}.bn3')
            if first:
                x = F.avg_pool2d(x, stride) if stride > 1 else x
                x = layer(x, f'{block}.downsample.0', f'{block}.downsample.1')
            x = F.relu(x + y)
        maps.append(x)
    return maps


@pytest.mark.parametrize('depth', [50, 101])
@pytest.mark.parametrize('strides, dilations, output_strides', [
    ((1, 2, 2, 2), (1, 1, 1, 1), (4, 8, 16, 32)),  # as CLIP trained it
    ((1, 2, 2, 1), (1, 1, 1, 2), (4, 8, 16, 16)),
    ((1, 2, 1, 1), (1, 1, 2, 4), (4, 8, 8, 8))])
@pytest.mark.parametrize('size', [(64, 96), (65, 73)])
def test_it_computes_what_clip_does(depth, strides, dilations, output_strides, size):
    torch.manual_seed(0)
    net = pretrained(MODELS.build(dict(
        type='CLIPResNet', depth=depth, base_channels=4, strides=strides, dilations=dilations))).double().eval()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    maps = net(image)
    expected = clip_maps(net.state_dict(), image, depth, strides, dilations)
    for ours, theirs, output_stride in zip(maps, expected, output_strides):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        assert ours.shape[2:] == (size[0] // output_stride, size[1] // output_stride)
    assert [m.shape[1] for m in maps] == [16, 32, 64, 128]


def test_out_indices_are_the_maps_asked_for():
    net = CLIPResNet(base_channels=4, out_indices=(1, 3)).eval()
    image = torch.randn(1, 3, 32, 32)
    both = net(image)
    net.out_indices = (0, 1, 2, 3)
    whole = net(image)
    assert torch.equal(both[0], whole[1]) and torch.equal(both[1], whole[3])


def test_the_parameters_are_those_of_rn50():
    """By hand: CLIP's RN50 is ResNet-50 (23,508,032 without classifier) with another stem (28,768 for 9,536)."""
    assert sum(p.numel() for p in CLIPResNet().parameters()) == 23_508_032 - (64 * 3 * 49 + 128) + (
        32 * 27 + 64 + 32 * 32 * 9 + 64 + 64 * 32 * 9 + 128)


def test_frozen_stages_stay_as_they_are_through_training_and_evaluation():
    torch.manual_seed(0)
    net = CLIPResNet(base_channels=4, frozen_stages=2)
    frozen = ('conv', 'bn', 'layer1', 'layer2')
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        net.train()
        sum(m.square().mean() for m in net(torch.randn(2, 3, 64, 64))).backward()
        optimizer.step()
        net.eval()  # as for a validation
    assert all(p.grad is None for name, p in net.named_parameters() if name.startswith(frozen))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith(frozen), name


def test_norm_eval_keeps_the_statistics_and_trains_the_weights():
    torch.manual_seed(0)
    net = CLIPResNet(base_channels=4, norm_eval=True).train()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 55 and not any(m.training for m in norms)
    net(torch.randn(2, 3, 64, 64))[-1].mean().backward()
    assert all((m.running_mean == 0).all() and m.weight.grad is not None for m in norms)


@pytest.mark.parametrize('options, message', [
    (dict(depth=34), r'depth=34.*\[50, 101\]'),
    (dict(strides=(1, 2, 2)), r'strides=\(1, 2, 2\): four stages'),
    (dict(dilations=(1, 1, 3, 1)), r'dilations=\(1, 1, 3, 1\)'),
    (dict(out_indices=(4,)), r'out_indices=\(4,\): name stages from 0 to 3'),
    (dict(frozen_stages=5), 'frozen_stages=5')])
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CLIPResNet(base_channels=4, **options)
