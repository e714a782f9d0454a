"""Which layers are in scope, and why some cannot be converted."""

import pytest
from support.networks import Network
from torch import nn

from mmseg_daft.core.batch_norm import find_batch_norms, why_not_convertible


@pytest.fixture
def model():
    return nn.ModuleDict({
        'backbone': nn.ModuleDict({
            'layer1': Network(2, 2), 'layer10': Network(2, 1), 'sync': Network(2, 1, sync=True)}),
        'decode_head': nn.Sequential(nn.GroupNorm(1, 4), nn.InstanceNorm2d(4))})


def test_all_kinds_are_found_by_full_name(model):
    assert list(find_batch_norms(model, ('backbone',))) == [
        'backbone.layer1.norms.0', 'backbone.layer1.norms.1', 'backbone.layer10.norms.0', 'backbone.sync.norms.0']
    assert find_batch_norms(model, ('',)) == find_batch_norms(model, 'backbone')


def test_a_scope_is_a_module_not_a_prefix_of_letters(model):
    assert list(find_batch_norms(model, ('backbone.layer1',))) == ['backbone.layer1.norms.0', 'backbone.layer1.norms.1']
    assert list(find_batch_norms(model, ('backbone.layer10.norms.0',))) == ['backbone.layer10.norms.0']


def test_a_misspelt_module_is_an_error_that_names_its_neighbors(model):
    with pytest.raises(ValueError, match=r"no submodule 'backbon'.*'backbone'"):
        find_batch_norms(model, ('backbon',))
    with pytest.raises(ValueError, match=r"no submodule 'encoder'.*'backbone', 'decode_head'"):
        find_batch_norms(model, ('encoder',))


def test_a_scope_without_batch_norm_is_an_error_that_names_what_is_there(model):
    with pytest.raises(ValueError, match=r"hold no batch-norm layer.*GroupNorm.*InstanceNorm2d"):
        find_batch_norms(model, ('decode_head',))


def test_reasons_against_a_conversion():
    assert why_not_convertible(nn.SyncBatchNorm(3)) is None
    assert 'no γ and β' in why_not_convertible(nn.BatchNorm2d(3, affine=False))
    assert 'no running statistics' in why_not_convertible(nn.BatchNorm2d(3, track_running_stats=False))
