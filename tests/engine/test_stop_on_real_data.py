"""A pass that stops when its statistics are known, on CamVid: close to the whole pass, at a fraction of it."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from support.data_layouts import link_under_names
from support.small_runs import CONFIGS

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import converted, write
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.engine.training_data import ModelForward, TargetLoader

ERROR = 0.04


@pytest.fixture
def setting(camvid_root, tmp_path):
    """The R-18 of the CamVid configs, random weights with the statistics of the day, and a loader of the dusk."""
    link_under_names(camvid_root / 'day', tmp_path / 'day', 1)
    link_under_names(camvid_root / 'dusk', tmp_path / 'dusk', 10)
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIGS / 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py')
    cfg.model.backbone.update(init_cfg=None, norm_cfg=dict(type='BN'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    layers = find_batch_norms(model, ('backbone',))
    forward = ModelForward(model, layers)

    def run(domain, **options):
        part = copy.deepcopy(cfg.train_dataloader)
        part.update(num_workers=0, persistent_workers=False)
        part.dataset.data_root = str(tmp_path / domain)
        for transform in part.dataset.pipeline:
            if transform['type'] == 'RandomCrop':
                transform['crop_size'] = (96, 96)
        model.data_preprocessor.size = (96, 96)
        loader = TargetLoader(Runner.build_dataloader(part, seed=0), seed=0)
        statistics = collect_statistics(
            model, layers, loader, lambda batch: forward.run(forward.prepare(batch)), **options)
        return statistics, loader

    day, _ = run('day', by_batch=True, stop=StopRule(0.2, 4))
    write(layers, {name: (layer.weight, layer.bias, day[name].mean, day[name].var) for name, layer in layers.items()})
    return layers, run


def test_the_converted_parameters_are_those_of_the_whole_pass_within_the_error_asked_for(setting):
    """Norm: a layer's root mean square, of means in target standard deviations and of variances relative to them.

    γ and β follow: γ in half the variance's relative error, β in γ times the mean's.
    """
    layers, run = setting
    whole, _ = run('dusk')
    stopped, loader = run('dusk', stop=StopRule(ERROR, 4))
    assert 4 <= loader.rounds < len(loader) / 2 and loader.taken()[0] == loader.rounds
    for name, layer in layers.items():
        a, b = converted(layer, stopped[name]), converted(layer, whole[name])
        var = b.running_var + layer.eps
        assert ((a.running_mean - b.running_mean).square() / var).mean().sqrt() < ERROR
        assert ((a.running_var - b.running_var) / var).square().mean().sqrt() < ERROR
        assert (a.weight - b.weight).norm() / b.weight.norm() < ERROR
        assert ((a.bias - b.bias) / b.weight).square().mean().sqrt() < ERROR
