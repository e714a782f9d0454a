"""Parameter groups, written out as the lists that they have to be."""

import pytest
import torch
from torch import nn

from mmseg_daft.core.parameter_groups import parameter_groups

PARTS = {'backbone': ('backbone',), 'head': ('neck', 'decode_head', 'auxiliary_head')}
RATES = {'backbone': 0.01, 'head': 0.1}


@pytest.fixture
def model():
    return nn.ModuleDict({
        'backbone': nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
        'decode_head': nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))})


def names(model, groups):
    name_of = {id(p): n for n, p in model.named_parameters()}
    return [(g['name'], g['lr'], g.get('weight_decay'), [name_of[id(p)] for p in g['params']]) for g in groups]


def test_two_named_groups(model):
    assert names(model, parameter_groups(model, PARTS, RATES)) == [
        ('backbone', 0.01, None, ['backbone.0.weight', 'backbone.0.bias', 'backbone.1.weight', 'backbone.1.bias']),
        ('head', 0.1, None, ['decode_head.0.weight', 'decode_head.0.bias', 'decode_head.1.weight',
                             'decode_head.1.bias', 'decode_head.2.weight', 'decode_head.2.bias'])]


def test_weight_decay_rules_add_groups(model):
    groups = parameter_groups(model, PARTS, RATES, weight_decay=0.5, norm_decay_mult=0.0, bias_decay_mult=0.1)
    assert names(model, groups) == [
        ('backbone', 0.01, None, ['backbone.0.weight']),
        ('backbone_bias', 0.01, 0.05, ['backbone.0.bias']),
        ('backbone_norm', 0.01, 0.0, ['backbone.1.weight', 'backbone.1.bias']),
        ('head', 0.1, None, ['decode_head.0.weight', 'decode_head.2.weight']),
        ('head_bias', 0.1, 0.05, ['decode_head.0.bias', 'decode_head.2.bias']),
        ('head_norm', 0.1, 0.0, ['decode_head.1.weight', 'decode_head.1.bias'])]


def test_frozen_parameters_are_left_out(model):
    model['backbone'].requires_grad_(False)
    assert [g['name'] for g in parameter_groups(model, PARTS, RATES)] == ['head']
    model.requires_grad_(False)
    with pytest.raises(ValueError, match='no trainable parameter'):
        parameter_groups(model, PARTS, RATES)


def test_a_parameter_of_no_part_is_an_error_that_names_it(model):
    model['teacher'] = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'teacher.weight' belongs to none.*in one part"):
        parameter_groups(model, PARTS, RATES)


def test_a_parameter_that_two_parts_share_is_an_error_that_names_both(model):
    model['decode_head'][0].weight = nn.Parameter(torch.zeros(4, 4, 1, 1))
    model['backbone'].append(nn.Conv2d(4, 4, 1))
    model['backbone'][2].weight = model['decode_head'][0].weight
    with pytest.raises(ValueError, match=r"'decode_head.0.weight' of the head is also 'backbone.2.weight'"):
        parameter_groups(model, PARTS, RATES)


def test_a_parameter_shared_within_a_part_is_listed_once(model):
    model['decode_head'][2].bias = nn.Parameter(torch.zeros(4))
    model['decode_head'][2].bias = model['decode_head'][0].bias
    groups = parameter_groups(model, PARTS, RATES)
    assert sum(len(g['params']) for g in groups) == len(list(model.parameters()))


def test_rules_need_a_weight_decay(model):
    with pytest.raises(ValueError, match="optimizer's weight_decay, and it has none"):
        parameter_groups(model, PARTS, RATES, norm_decay_mult=0.0)


def test_a_part_in_two_places_is_an_error(model):
    with pytest.raises(ValueError, match='belongs to backbone and head'):
        parameter_groups(model, {'backbone': ('backbone',), 'head': ('decode_head', 'backbone.0')}, RATES)


def test_a_submodule_named_in_both_parts_is_an_error(model):
    with pytest.raises(ValueError, match='belongs to backbone and head'):
        parameter_groups(model, {'backbone': 'backbone', 'head': ('decode_head', 'backbone')}, RATES)


def test_the_rest_of_a_model_is_a_part_and_a_name_needs_no_tuple(model):
    rest, named = (parameter_groups(model, parts, RATES) for parts in (
        {'backbone': '', 'head': 'decode_head'}, {'backbone': 'backbone', 'head': ('decode_head',)}))
    for a, b in zip(rest, named):
        assert a['name'] == b['name'] and all(x is y for x, y in zip(a['params'], b['params']))


def test_a_part_without_a_rate_is_an_error(model):
    with pytest.raises(ValueError, match=r"no learning rate of \['head'\]"):
        parameter_groups(model, PARTS, {'backbone': 0.1})
