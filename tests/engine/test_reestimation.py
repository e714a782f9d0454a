"""Re-estimated statistics of a real segmentor, against PyTorch's own update of running statistics."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from support.networks import pretrained
from support.small_runs import SMALL, small
from torch import nn

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.engine.reestimation import reestimate_statistics
from mmseg_daft.engine.training_data import TargetLoader


class Loss(nn.Module):
    """The training forward of a segmentor as a function of one argument, as ``update_bn`` calls it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model._run_forward(self.model.data_preprocessor(batch, True), mode='loss')


@pytest.fixture
def setting(shapes_root, tmp_path):
    init_default_scope('mmseg')
    cfg = small(SMALL / 'ft.py', tmp_path / 'run', shapes_root)
    cfg.model.backbone.update(init_cfg=None, norm_cfg=dict(type='BN'))
    cfg.model.decode_head.update(norm_cfg=dict(type='BN'), dropout_ratio=0)
    torch.manual_seed(0)
    model = pretrained(MODELS.build(cfg.model))
    return model.train(), Runner.build_dataloader(cfg.train_dataloader, seed=0)


@pytest.mark.parametrize('modules', ['', 'backbone'])
def test_statistics_are_those_of_pytorchs_own_update(setting, modules):
    model, loader = setting
    layers = find_batch_norms(model, modules)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, random = {module: module.training for module in model.modules()}, torch.get_rng_state()
    reestimate_statistics(model, layers, loader, seed=3)
    assert modes == {module: module.training for module in model.modules()}
    assert torch.equal(random, torch.get_rng_state())
    ours = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in ours.items():
        inside = name.rsplit('.', 1)[0] in layers and 'running' in name
        assert torch.equal(tensor, before[name]) != inside, name

    model.load_state_dict(before)
    for layer in find_batch_norms(model, '').values():
        layer.train(layer in layers.values())
    torch.optim.swa_utils.update_bn([[batch] for batch in TargetLoader(loader, seed=3)], Loss(model))
    for name, layer in layers.items():
        torch.testing.assert_close(ours[f'{name}.running_mean'], layer.running_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours[f'{name}.running_var'], layer.running_var, rtol=1e-4, atol=1e-6)


def test_a_model_that_diverged_is_refused_and_left_as_it_was(setting):
    model, loader = setting
    model.backbone.layer3[0].conv1.weight.data.fill_(float('nan'))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="statistics of batch-norm layer 'backbone.layer3.0.bn1' are NaN"):
        reestimate_statistics(model, find_batch_norms(model, ''), loader, seed=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name


def test_without_batch_norm_there_is_nothing_to_do(setting):
    reestimate_statistics(setting[0], {}, setting[1], seed=0)
