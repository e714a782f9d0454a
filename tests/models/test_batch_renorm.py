"""Batch Renormalization against its formulas, and inside mmseg's ResNet."""

import pytest
import torch
import torch.distributed as dist
from mmseg.models.backbones import ResNet
from support.networks import pretrained
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from mmseg_daft.core import convert_batch_norm
from mmseg_daft.models import BatchRenorm2d


def formula(layer, x):
    """Ioffe 2017, Algorithm 1, with r and d constant to the gradient and not clipped."""
    mean = x.mean((0, 2, 3), keepdim=True)
    std = (x - mean).square().mean((0, 2, 3), keepdim=True).add(layer.eps).sqrt()
    running_mean, running_var = (t[None, :, None, None] for t in (layer.running_mean, layer.running_var))
    running_std = (running_var + layer.eps).sqrt()
    r, d = (std / running_std).detach(), ((mean - running_mean) / running_std).detach()
    y = (x - mean) / std * r + d
    return y * layer.weight[None, :, None, None] + layer.bias[None, :, None, None]


def test_output_gradients_and_statistics_are_those_of_the_formula():
    layer = pretrained(BatchRenorm2d(5, momentum=0.3).double()).train()
    torch.manual_seed(0)
    x = (torch.randn(4, 5, 6, 6, dtype=torch.double) * 3 + 2).requires_grad_()
    leaves, weights = (x, layer.weight, layer.bias), torch.randn(4, 5, 6, 6, dtype=torch.double)
    expected = formula(layer, x)
    gradients = torch.autograd.grad((expected * weights).sum(), leaves)
    plain = nn.BatchNorm2d(5, momentum=0.3).double()
    plain.load_state_dict(layer.state_dict())
    in_eval_mode = layer.eval()(x).detach()

    output = layer.train()(x)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output, in_eval_mode, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad((output * weights).sum(), leaves), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    plain(x)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in layer.state_dict().items())


def backbone(kind):
    torch.manual_seed(0)
    return pretrained(ResNet(18, base_channels=4, stem_channels=4, norm_cfg=dict(type=kind)), seed=1)


def test_a_backbone_computes_in_train_mode_what_it_computes_in_eval_mode():
    renorm, plain, x = backbone('BatchRenorm'), backbone('BN'), torch.randn(2, 3, 64, 64)
    assert renorm.state_dict().keys() == plain.state_dict().keys()
    plain.eval()
    expected = plain(x)
    renorm.train()
    for ours, theirs in zip(renorm(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    plain.train()
    assert not torch.allclose(plain(x)[-1], expected[-1], rtol=0.1, atol=0.1)


def test_a_conversion_keeps_the_output_in_both_modes():
    model, x = backbone('BatchRenorm'), torch.randn(4, 3, 64, 64)
    model.eval()
    before = model(x)[-1].detach()
    assert convert_batch_norm(model, [x], outputs=lambda batch: list(model(batch))).source
    model.train()
    torch.testing.assert_close(model(x)[-1], before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


@pytest.mark.parametrize('options', [dict(affine=False), dict(track_running_stats=False), dict(momentum=None)])
def test_what_it_cannot_correct_by_is_refused(options):
    with pytest.raises(ValueError, match='it needs affine=True, track_running_stats=True and a momentum'):
        BatchRenorm2d(3, **options)


def test_several_ranks_are_refused():
    dist.init_process_group('fake', store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(ValueError, match='one process, and there are 2'):
            BatchRenorm2d(3)
    finally:
        dist.destroy_process_group()
