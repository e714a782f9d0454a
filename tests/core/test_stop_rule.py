"""The stop rule against the standard errors of an independent computation."""

import numpy as np
import pytest
import torch
from support.networks import Network, pretrained

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.core.stop_rule import StopRule


def setting(count):
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=2))
    return model, find_batch_norms(model, ('',)), [torch.randn(2, 5, 6, 6) for _ in range(count)]


def worst_error(inputs, eps):
    """The largest root mean square over channels of the relative standard errors, in NumPy."""
    means = np.array([z.mean((0, 2, 3)) for z in inputs])
    variances = np.array([z.var((0, 2, 3), ddof=1) for z in inputs])
    scale = variances.mean(0) + eps
    errors = [v.std(0, ddof=1) / np.sqrt(len(v)) / s for v, s in ((means, np.sqrt(scale)), (variances, scale))]
    return max(np.sqrt((e**2).mean()) for e in errors)


@pytest.mark.parametrize('minimum', [2, 30])
@pytest.mark.parametrize('error', [0.15, 0.05])
def test_the_pass_ends_at_the_first_mini_batch_at_which_every_layer_is_known(error, minimum):
    model, layers, batches = setting(200)
    seen = {name: [] for name in layers}
    model.eval()
    handles = [layer.register_forward_hook(lambda m, i, o, n=name: seen[n].append(i[0].double().numpy()))
               for name, layer in layers.items()]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    expected = next(n for n in range(minimum, 201) if all(
        worst_error(seen[name][:n], layer.eps) <= error for name, layer in layers.items()))
    statistics = collect_statistics(model, layers, batches, model, stop=StopRule(error, minimum))
    assert {s.num_batches for s in statistics.values()} == {expected} and expected < 200


def test_the_cost_does_not_grow_with_the_data():
    used = []
    for count in (100, 1000):
        model, layers, batches = setting(count)
        rest = iter(batches)
        collect_statistics(model, layers, rest, model, stop=StopRule(0.1, 4))
        used.append(count - len(list(rest)))
    assert used[0] == used[1] < 100


def test_without_a_rule_or_with_one_that_is_never_met_it_is_the_whole_pass():
    model, layers, batches = setting(20)
    whole = collect_statistics(model, layers, batches, model)
    strict = collect_statistics(model, layers, batches, model, stop=StopRule(1e-6, 2))
    for name in layers:
        assert whole[name].num_batches == strict[name].num_batches == 20
        assert torch.equal(whole[name].mean, strict[name].mean) and torch.equal(whole[name].var, strict[name].var)


@pytest.mark.parametrize('error, minimum, match', [(0, 16, 'larger than 0'), (float('nan'), 16, 'larger than 0'),
                                                   (0.01, 1, '2 or larger')])
def test_rules_that_make_no_sense(error, minimum, match):
    with pytest.raises(ValueError, match=match):
        StopRule(error, minimum)
