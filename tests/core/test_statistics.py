"""Target statistics against an independent float64 computation of Algorithm 1, lines 1 to 3."""

import numpy as np
import pytest
import torch
from support.networks import Network, pretrained
from torch import nn

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.statistics import batch_moments, collect_statistics


def reference(model, layers, batches):
    """Algorithm 1 in NumPy and float64, from the inputs that each layer sees in test mode."""
    seen = {name: [] for name in layers}
    handles = [layer.register_forward_hook(lambda m, i, o, n=name: seen[n].append(i[0].double().numpy()))
               for name, layer in layers.items()]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    means, variances = {}, {}
    for name, inputs in seen.items():
        per_channel = [np.moveaxis(z, 1, 0).reshape(z.shape[1], -1) for z in inputs]
        means[name] = np.mean([z.mean(axis=1) for z in per_channel], axis=0)
        variances[name] = np.mean([z.var(axis=1, ddof=1) for z in per_channel], axis=0)
    return means, variances


@pytest.mark.parametrize('dims', [1, 2, 3])
@pytest.mark.parametrize('shared', [False, True])
def test_statistics_equal_the_float64_reference(dims, shared):
    torch.manual_seed(0)
    model = pretrained(Network(dims, depth=3, shared=shared))
    layers = find_batch_norms(model, ('',))
    batches = [torch.randn(n, 5, *[7] * dims) * 2 + 1 for n in (4, 4, 1)]  # the last one is short
    means, variances = reference(model, layers, batches)
    statistics = collect_statistics(model, layers, batches, model)
    for name, s in statistics.items():
        assert s.num_batches == (6 if shared and name == 'norms.0' else 3)
        np.testing.assert_allclose(s.mean, means[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(s.var, variances[name], rtol=1e-5)


@pytest.mark.parametrize('shared', [False, True])
def test_statistics_by_batch_are_those_of_pytorchs_own_update(shared):
    """What adaptive batch norm needs: torch.optim.swa_utils.update_bn normalizes by mini-batch, too."""
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=3, shared=shared)).train()
    model.norms[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = find_batch_norms(model, ('',))
    batches = [torch.randn(4, 5, 7, 7) * 2 + 1 for _ in range(3)]
    statistics = collect_statistics(model, layers, batches, model, by_batch=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [layer.training for layer in model.norms] == [True, False, True]
    assert all(layer.track_running_stats for layer in model.norms)
    in_test_mode = collect_statistics(model, layers, batches, model)
    assert not torch.allclose(in_test_mode['norms.1'].mean, statistics['norms.1'].mean, rtol=1e-2)

    model.train()
    torch.optim.swa_utils.update_bn(batches, model)
    for name, layer in layers.items():
        np.testing.assert_allclose(statistics[name].mean, layer.running_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(statistics[name].var, layer.running_var, rtol=1e-5)


def test_every_mini_batch_counts_once_and_variance_is_not_pooled():
    layer = pretrained(nn.Sequential(nn.BatchNorm1d(1)))
    batches = [torch.tensor([[0.], [2.]]), torch.tensor([[10.], [10.], [10.], [14.]])]
    s = collect_statistics(layer, find_batch_norms(layer, ('',)), batches, layer)['0']
    assert s.mean.item() == pytest.approx((1 + 11) / 2)
    assert s.var.item() == pytest.approx((2 + 4) / 2)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_moments_hold_where_sums_of_squares_cancel(memory_format, dtype):
    z = (torch.randn(16, 8, 65, 65, dtype=torch.float64) * 0.1 + 1e3).to(dtype)
    exact = z.double().transpose(0, 1).flatten(1)
    moments = batch_moments(z.contiguous(memory_format=memory_format))
    np.testing.assert_allclose(moments.values[1], exact.var(1), rtol=1e-5)
    # A mean of 1e3 in float32 is known to half a unit in the last place, 3e-5.
    np.testing.assert_allclose(moments.values[0], exact.mean(1), atol=4e-5)
    naive = (z.float() ** 2).mean((0, 2, 3)) - z.float().mean((0, 2, 3)) ** 2
    assert ((naive.double() - exact.var(1)).abs() / exact.var(1)).max() > 0.1, 'the naive way would pass as well'


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32_or_better(dtype):
    z = torch.randn(16, 4, 65, 65).to(dtype)
    exact = z.double().transpose(0, 1).flatten(1)
    moments = batch_moments(z)
    np.testing.assert_allclose(moments.values[1], exact.var(1), rtol=1e-5)
    np.testing.assert_allclose(moments.values[0], exact.mean(1), atol=1e-6)


def test_autocast_statistics_are_those_of_the_half_precision_inputs():
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=2))
    layers = find_batch_norms(model, ('',))
    batches = [torch.randn(4, 5, 9, 9) for _ in range(2)]

    def forward(batch):
        with torch.autocast('cpu', torch.bfloat16):
            return model(batch)

    kinds = []
    handle = model.norms[0].register_forward_pre_hook(lambda m, inputs: kinds.append(inputs[0].dtype))
    s = collect_statistics(model, layers, batches, forward)['norms.0']
    handle.remove()
    assert set(kinds) == {torch.bfloat16}
    with torch.autocast('cpu', torch.bfloat16):
        z = torch.stack([model.convs[0](batch) for batch in batches]).double().detach()
    np.testing.assert_allclose(s.mean, z.mean((1, 3, 4)).mean(0), atol=1e-6)


def test_nothing_but_single_elements_per_channel_is_an_error_that_names_the_layer():
    model = pretrained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match=r"'1' only ever saw a single element per channel.*larger batch_size"):
        collect_statistics(model, find_batch_norms(model, ('',)), [torch.randn(1, 3, 1, 1)] * 2, model)


def test_a_last_mini_batch_of_one_image_is_passed_over_behind_global_pooling_alone():
    model = pretrained(nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)))
    batches = [torch.randn(n, 3, 4, 4) for n in (4, 4, 1)]
    statistics = collect_statistics(model, find_batch_norms(model, ('',)), batches, model)
    means, variances = reference(model, find_batch_norms(model, ('',)), batches[:2])
    assert (statistics['0'].num_batches, statistics['2'].num_batches) == (3, 2)
    np.testing.assert_allclose(statistics['2'].mean, means['2'], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics['2'].var, variances['2'], rtol=1e-5)


def test_a_layer_called_by_keyword_is_seen():
    class Named(nn.Sequential):
        def forward(self, x):
            return self[0](input=x)

    model = pretrained(Named(nn.BatchNorm2d(3)))
    assert collect_statistics(model, find_batch_norms(model, ('',)), [torch.randn(2, 3, 4, 4)], model)['0'].num_batches


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_values_that_are_no_numbers_are_an_error_that_names_the_first_layer(bad):
    model = pretrained(Network(2, depth=2))
    batch = torch.randn(2, 5, 4, 4)
    batch[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"'norms.0' are NaN or infinite"):
        collect_statistics(model, find_batch_norms(model, ('',)), [batch], model)


def test_modes_hooks_and_tensors_are_as_before_also_after_an_error():
    model = pretrained(Network(2, depth=2))
    model.train()
    model.norms[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def broken(batch):
        model(batch)
        raise OSError('disk gone')

    with pytest.raises(OSError):
        collect_statistics(model, find_batch_norms(model, ('',)), [torch.randn(2, 5, 4, 4)], broken)
    assert model.training and model.norms[0].training and not model.norms[1].training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_layer_that_is_never_called_has_no_batches():
    model = pretrained(Network(2, depth=2))
    model.unused = nn.BatchNorm2d(3)
    statistics = collect_statistics(model, find_batch_norms(model, ('',)), [torch.randn(2, 5, 4, 4)], model)
    assert statistics['unused'].num_batches == 0 and statistics['norms.1'].num_batches == 1


def test_a_slice_of_vectors_that_is_not_contiguous():
    """A batch norm behind a class token, for instance: ``tokens[:, 0]``."""
    model = pretrained(nn.Sequential(nn.BatchNorm1d(6)))
    tokens = torch.randn(8, 3, 6)
    statistics = collect_statistics(model, find_batch_norms(model, ''), [tokens.mT[:, :, 0]], model)['0']
    np.testing.assert_allclose(statistics.mean, tokens[:, 0].double().mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.var, tokens[:, 0].double().var(0), rtol=1e-5)
