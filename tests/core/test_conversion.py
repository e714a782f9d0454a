"""The conversion by its properties: same test-mode function, closer training mode, nothing else touched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import Network, pretrained
from torch import nn

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import convert, tensors_of, write
from mmseg_daft.core.shift import statistics_shift
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics
from mmseg_daft.core.variant import ConversionVariant


def convert_to(model, batches, **variant):
    layers = find_batch_norms(model, ('',))
    statistics = collect_statistics(model, layers, batches, model)
    convert(layers, statistics, ConversionVariant(**variant))
    return layers, statistics


def relative(a, b):
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))  # a last ReLU may leave nothing but zeros


networks = st.fixed_dictionaries(dict(
    dims=st.sampled_from([1, 2, 3]), depth=st.integers(1, 6), sync=st.booleans(), shared=st.booleans(),
    eps=st.sampled_from([1e-8, 1e-5, 1e-3, 1.0])))


@settings(max_examples=40, deadline=None)
@given(network=networks, seed=st.integers(0, 999), shift=st.floats(-20, 20), scale=st.floats(0.05, 20))
def test_the_test_mode_function_is_unchanged(network, seed, shift, scale):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        torch.manual_seed(seed)
        model = pretrained(Network(**network), seed).to(dtype).eval()
        shape = (3, 5, *[6] * network['dims'])
        batches = [torch.randn(shape, dtype=dtype) * scale + shift for _ in range(2)]
        # The target's images, the source's, and anything else.
        inputs = [batches[0], torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype) * 50 - 7]
        with torch.no_grad():
            before = [model(x) for x in inputs]
            convert_to(model, batches)
            after = [model(x) for x in inputs]
        assert max(map(relative, before, after)) < tolerance


@pytest.mark.parametrize('dims', [1, 2, 3])
def test_in_training_mode_the_converted_network_is_closer_to_its_test_mode(dims):
    torch.manual_seed(0)
    model = pretrained(Network(dims, depth=4))
    batches = [torch.randn(16, 5, *[8] * dims) * 3 + 4 for _ in range(4)]

    def gap():
        with torch.no_grad():
            test = [model.eval()(x) for x in batches]
            layers = find_batch_norms(model, ('',))
            state = write(layers, {name: tensors_of(layer) for name, layer in layers.items()})
            train = [model.train()(x) for x in batches]
            write(layers, state)  # training mode moved the running statistics
        return max(map(relative, test, train))

    before = gap()
    convert_to(model, batches)
    assert gap() < before / 5


def test_the_tensors_are_those_of_equations_4_and_5():
    model = pretrained(nn.Sequential(nn.BatchNorm2d(6, eps=0.01)))
    layer = model[0]
    gamma, beta, mean, var = (t.detach().double().numpy().copy() for t in tensors_of(layer))
    target = LayerStatistics(torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) * 2, 5)
    convert({'0': layer}, {'0': target})
    new_mean, new_var = target.mean.numpy(), target.var.numpy()
    np.testing.assert_allclose(layer.weight.detach(), gamma * np.sqrt(new_var + 0.01) / np.sqrt(var + 0.01), rtol=1e-6)
    np.testing.assert_allclose(
        layer.bias.detach(), beta + gamma * (new_mean - mean) / np.sqrt(var + 0.01), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean, new_mean, rtol=1e-6)
    np.testing.assert_allclose(layer.running_var, new_var, rtol=1e-6)


@pytest.mark.parametrize('variant, changed', [
    (dict(var=False), ('bias', 'running_mean')),
    (dict(mean=False), ('weight', 'running_var')),
    (dict(blend=0.3), ('weight', 'bias', 'running_mean', 'running_var')),
    (dict(blend=0.5, mean=False), ('weight', 'running_var')),
    (dict(compensate=False), ('running_mean', 'running_var')),
    (dict(compensate=False, var=False), ('running_mean',))], ids=str)
def test_what_an_ablation_changes_and_what_not(variant, changed):
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=3)).double().eval()
    batches = [torch.randn(4, 5, 6, 6, dtype=torch.float64) * 2 + 1 for _ in range(3)]
    source = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(batches[0])
        _, statistics = convert_to(model, batches, **variant)
        after = model(batches[0])
    for name, tensor in model.state_dict().items():
        expected = name.startswith('norms') and name.split('.')[-1] in changed
        assert torch.equal(tensor, source[name]) != expected, name
    assert (relative(before, after) < 1e-10) == variant.get('compensate', True)
    alpha = variant.get('blend', 1)
    for i in range(3):
        for tensor, target in (('mean', statistics[f'norms.{i}'].mean), ('var', statistics[f'norms.{i}'].var)):
            name = f'norms.{i}.running_{tensor}'
            if f'running_{tensor}' in changed:
                torch.testing.assert_close(model.state_dict()[name], (1 - alpha) * source[name] + alpha * target)


def test_means_alone_and_then_variances_alone_are_the_whole_conversion():
    torch.manual_seed(0)
    whole, parts = (pretrained(Network(2, depth=3)).double() for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    batches = [torch.randn(4, 5, 6, 6, dtype=torch.float64) * 2 + 1]
    convert_to(whole, batches)
    convert_to(parts, batches, var=False)
    convert_to(parts, batches, mean=False)
    for a, b in zip(parts.parameters(), whole.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('variant, message', [
    (dict(mean=False, var=False), 'replaces nothing'), (dict(blend=0), 'blend=0: .*larger than 0'),
    (dict(blend=float('nan')), 'blend=nan'), (dict(blend=1.5), 'blend=1.5')], ids=str)
def test_an_ablation_without_a_conversion_is_refused(variant, message):
    with pytest.raises(ValueError, match=message):
        ConversionVariant(**variant)


def test_it_writes_in_place_also_into_frozen_parameters_and_nothing_else():
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=2))
    model.norms[0].requires_grad_(False)
    model.norms[1].num_batches_tracked += 7
    tensors = {name: (tensor, tensor.detach().clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    convert_to(model, [torch.randn(4, 5, 6, 6) + 2])
    changed = ('weight', 'bias', 'running_mean', 'running_var')
    for name, tensor in model.state_dict(keep_vars=True).items():
        old, value = tensors[name]
        assert tensor is old
        assert torch.equal(tensor, value) != (name.startswith('norms') and name.split('.')[-1] in changed), name
    assert not model.norms[0].weight.requires_grad and model.norms[1].weight.requires_grad


def test_converting_again_to_the_same_data_changes_nothing():
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=3)).double()
    batches = [torch.randn(4, 5, 6, 6, dtype=torch.float64) for _ in range(3)]
    convert_to(model, batches)
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convert_to(model, batches)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, once[name], rtol=1e-10, atol=1e-10)


def test_dead_channels_keep_the_function():
    model = pretrained(nn.Sequential(nn.BatchNorm2d(5))).eval()
    model[0].running_var[0] = 0.0  # dead on the source
    batch = torch.randn(4, 5, 6, 6)
    batch[:, 1] = 3.0  # dead on the target
    with torch.no_grad():
        before = model(batch)
        convert_to(model, [batch])
        assert relative(before, model(batch)) < 1e-4


def test_all_or_none_is_converted():
    model = pretrained(Network(2, depth=2))
    model.norms[1].weight.data[0] = float('nan')
    layers = find_batch_norms(model, ('',))
    statistics = collect_statistics(model, {'norms.0': layers['norms.0']}, [torch.randn(4, 5, 6, 6)], model)
    statistics['norms.1'] = statistics['norms.0']
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"'norms.1': the converted weight is not finite"):
        convert(layers, statistics)
    assert all(torch.equal(tensor, state[name]) or 'norms.1.weight' in name
               for name, tensor in model.state_dict().items())


def test_a_parameter_of_two_layers_is_refused():
    model = pretrained(Network(2, depth=2))
    model.norms[1].weight = model.norms[0].weight
    with pytest.raises(ValueError, match=r"'norms.0' and 'norms.1' share a tensor"):
        convert_to(model, [torch.randn(4, 5, 6, 6)])


def test_the_domain_shift_counts_in_source_standard_deviations():
    layer = nn.BatchNorm2d(2, eps=0.0)
    layer.running_mean.copy_(torch.tensor([1.0, -1.0]))
    layer.running_var.copy_(torch.tensor([4.0, 1.0]))
    target = LayerStatistics(torch.tensor([5.0, -1.0]).double(), torch.tensor([4.0, 2.0]).double(), 1)
    shift = statistics_shift(layer.running_mean, layer.running_var, target.mean, target.var, layer.eps).average
    assert shift.mean_shift == pytest.approx((2 + 0) / 2)
    assert shift.log_var_ratio == pytest.approx((0 + np.log(2)) / 2)
