"""The hook inside real runs: what it writes is so, and the training does not notice it."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import VISBACKENDS
from mmengine.visualization.vis_backend import BaseVisBackend
from support.pretrained_files import write_start
from support.small_runs import SMALL, small, train

from mmseg_daft.engine import feature_reference
from mmseg_daft.engine.convert_model import CONVERTED
from mmseg_daft.engine.hooks.feature_distortion_hook import ORIGIN


@VISBACKENDS.register_module()
class Recording(BaseVisBackend):
    """A visualizer that keeps what it is told, as TensorBoard's and W&B's send it on."""

    told: dict = {}

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self.told

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        self.told.setdefault(step, {}).update(scalar_dict)


@pytest.fixture
def daft(shapes_root, tmp_path):
    """Make a config of a small DAFT run with the hook."""

    def make(name='run', iters=4, hook=(), **options):
        cfg = small(SMALL / 'daft.py', tmp_path / name, shapes_root, iters)
        write_start(cfg, tmp_path)
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='Recording')]
        cfg.custom_hooks = [dict(type='BNConversionHook')]
        if hook is not None:
            cfg.custom_hooks.append(dict(dict(type='FeatureDistortionHook', interval=2, stages=(1, 4)), **dict(hook)))
        cfg.merge_from_dict(options)
        return cfg

    Recording.told.clear()
    return make


class States:
    """What a run looked like before each iteration."""

    def __init__(self):
        self.random, self.paths, self.modes = [], [], []

    def __call__(self, runner, batch):
        states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        self.random.append(hashlib.sha256(json.dumps(states).encode()).hexdigest())
        self.paths.append([sample.img_path for sample in batch['data_samples']])
        self.modes.append([module.training for module in runner.model.modules()])


def own_computation(cfg, runner, kept):
    """The scalars of a model from its definition, in float64 and without half precision."""
    dataset = runner.val_dataloader.dataset
    start = torch.load(cfg.model.backbone.init_cfg.checkpoint)['state_dict']
    start = {n: t for n, t in start.items() if n.startswith('backbone')}
    after = {n: t.clone() for n, t in runner.model.state_dict().items()}
    maps = []
    runner.model.eval()
    for state in (start, after):
        runner.model.load_state_dict(state, strict=False)
        with torch.no_grad():
            maps.append([runner.model.backbone(runner.model.data_preprocessor(
                pseudo_collate([dataset[i]]), False)['inputs'])[3][0].double().numpy() for i in range(len(dataset))])
    runner.model.train()
    x, y = (np.stack([m.mean((1, 2)) for m in every]) for every in maps)
    cosine = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    w = {**start, **kept}
    means = [np.linalg.norm(after[n].double() - w[n].double()) / np.linalg.norm(w[n].double())
             for n in w if n.endswith('running_mean')]
    rounding = 2**-11 * np.sqrt((x * x).sum(1)).mean()  # half precision, of features about so long
    return {'stage4/cosine_similarity': pytest.approx(cosine.mean(), rel=1e-3),
            'stage4/l2_distance': pytest.approx(np.sqrt(((x - y) ** 2).sum(1)).mean(), abs=rounding),
            'change/bn_mean': pytest.approx(np.sort(means)[(len(means) - 1) // 2], rel=1e-6)}


def test_scalars_are_the_distortion_also_after_a_resume(daft):
    """A resumed run is compared with the pre-trained model, not with what it resumed from."""
    cfg = daft(iters=2)
    runner = train(cfg)
    kept = runner.message_hub.get_info(CONVERTED)
    told = {step: dict(scalars) for step, scalars in Recording.told.items() if 'distortion/drift/bn_mean' in scalars}
    assert list(told) == [2]
    scalars = [json.loads(line) for file in Path(cfg.work_dir).glob('*/vis_data/scalars.json')
               for line in file.read_text().splitlines()]
    local = next(line for line in scalars if 'distortion/stage1/cka' in line)
    assert local['step'] == 2 and {f'distortion/{kind}' for kind in (
        'stage4/cosine_similarity', 'stage4/l2_distance', 'stage4/pixel_cosine_similarity', 'stage4/cka',
        'change/conv_weight', 'change/bn_weight', 'change/bn_bias', 'change/bn_mean', 'change/bn_variance',
        'drift/bn_mean', 'drift/bn_log_variance')} <= set(local)
    for name, value in own_computation(cfg, runner, kept).items():
        assert local[f'distortion/{name}'] == value, name
    log = next(Path(cfg.work_dir).glob('*/*.log')).read_text()
    assert 'Feature distortion at 2: stage 4 cosine similarity' in log and '% of the training' in log

    cfg = daft(iters=5, resume=True)
    runner = train(cfg)
    assert Recording.told[4]['distortion/change/bn_mean'] > told[2]['distortion/change/bn_mean']
    for name, value in own_computation(cfg, runner, kept).items():  # the last iteration is looked at, too
        assert Recording.told[5][f'distortion/{name}'] == value, name

    path = cfg.model.backbone.init_cfg.checkpoint
    content = torch.load(path)
    content['state_dict']['backbone.layer4.0.conv1.weight'] *= -1
    cfg = daft(iters=6, resume=True)
    torch.save(content, path)
    with pytest.raises(RuntimeError, match='began with cannot be built again'):
        train(cfg)


def test_a_run_after_adaptive_batch_norm_goes_on(daft):
    """AdaBN changes the features: they are compared with those behind it, before a resume and after."""
    references = []
    for options in ({'iters': 2}, {'iters': 4, 'resume': True}):
        runner = train(daft(**options, **{'custom_hooks.0.compensate': False}))
        hook = next(h for h in runner.hooks if type(h).__name__ == 'FeatureDistortionHook')
        references.append([hook.reference.maps, hook.before])
    torch.testing.assert_close(references[0], references[1])


def local_scalars(cfg):
    """By name, the (step, value) pairs of the distortion that MMEngine's own visualizer kept."""
    kept = {}
    for file in Path(cfg.work_dir).glob('*/vis_data/scalars.json'):
        for line in map(json.loads, file.read_text().splitlines()):
            for name, value in line.items():
                if name.startswith('distortion/'):
                    kept.setdefault(name, []).append((line['step'], value))
    return kept


def test_tensorboard_shows_them(daft):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = daft()
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runner = train(cfg)
    runner.visualizer.close()
    (events,) = Path(cfg.work_dir).glob('*/vis_data/events.out.tfevents.*')
    board, kept = EventAccumulator(str(events)), local_scalars(cfg)
    board.Reload()
    shown = {name: [(event.step, event.value) for event in board.Scalars(name)]
             for name in board.Tags()['scalars'] if name.startswith('distortion/')}
    assert shown.keys() == kept.keys() and len(kept) == 2 * 4 + 5 + 2
    for name, pairs in kept.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in pairs] == [2, 4]
        np.testing.assert_allclose([v for _, v in shown[name]], [v for _, v in pairs], rtol=1e-6, err_msg=name)


def test_the_training_is_the_same_bit_for_bit(daft):
    with_hook, without = States(), States()
    one = train(daft('with', iters=3, hook=dict(interval=1)), with_hook)
    two = train(daft('without', iters=3, hook=None), without)
    assert vars(with_hook) == vars(without)
    assert one.message_hub.get_info(ORIGIN)
    a, b = one.model.state_dict(), two.model.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_after_the_conversion_nothing_is_distorted_yet(daft):
    seen = []

    def look(runner, batch):
        if not seen:
            hook = next(h for h in runner.hooks if type(h).__name__ == 'FeatureDistortionHook')
            seen.append(hook.measure(runner.model))
            modes = [module.training for module in runner.model.modules()]
            assert modes.count(False) == 0

    train(daft(iters=1), look)
    for name, value in seen[0].items():
        if name.startswith(('change', 'drift')):
            assert value == 0
        elif 'cosine' in name or 'cka' in name:
            assert value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('number, size, positions', [
    (8, (8, 16), 1024), (8, (3, 43), 1024), (8, (15, 17), 1024), (3, (40, 50), 1023), (1, (30, 30), 900)])
def test_cka_is_over_1024_positions_at_most(monkeypatch, number, size, positions):
    monkeypatch.setattr(feature_reference, 'linear_cka', lambda both, before, after: both.count)
    model = torch.nn.Module()
    model.backbone = torch.nn.Sequential()
    model.backbone.out_indices = (0,)
    model.backbone.forward = lambda x: (x,)
    model.data_preprocessor = lambda batch, training: dict(inputs=torch.stack(batch['inputs']))
    samples = [dict(inputs=torch.randn(3, *size, generator=torch.Generator().manual_seed(i))) for i in range(number)]
    reference = feature_reference.FeatureReference(model, samples, (1,), 10**9)
    assert reference.compare(model)['stage1/cka'] == positions


@pytest.mark.parametrize('options, message', [
    (dict(max_bytes=30_000), r'need \d+ MiB, and max_bytes allows 0. Use num_images=1, fewer stages'),
    (dict(stages=(5,)), r'names 5; the backbone returns the stages 1, 2, 3, 4')])
def test_what_cannot_be_is_refused_before_training(daft, options, message):
    with pytest.raises(ValueError, match=message):
        train(daft(hook=options))


def test_it_needs_validation_data_and_an_interval(daft):
    cfg = daft()
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    with pytest.raises(ValueError, match='set val_dataloader'):
        train(cfg)
    with pytest.raises(ValueError, match='interval=0'):
        train(daft('other', hook=dict(interval=0)))
