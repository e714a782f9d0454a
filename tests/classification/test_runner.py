"""Our hook, our constructor and exact resuming in MMPretrain's runner, which counts epochs."""

import subprocess
import sys
from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from support import environment
from support.classification import DAFT_CIFAR, small_classifier, write_classifier_start
from support.small_runs import CONFIGS, Probe, train
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from docs.write_digits import write as write_digit
from mmseg_daft import cli
from mmseg_daft.engine.convert_model import RECORD


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def make(tasks, tmp_path):
    def config(name='run', config=DAFT_CIFAR, **options):
        cfg = small_classifier(config, tmp_path / name, tasks, **options)
        write_classifier_start(cfg, tmp_path)
        return cfg
    return config


@HOOKS.register_module()
class Double(Hook):
    """Let the model compute in float64."""

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        runner.model.double()


def test_the_conversion_equals_an_independent_computation(make):
    """Eq. 3-5 in float64: the pre-trained network over the mini-batches, its layers' inputs taken apart."""
    cfg = make(**{'train_dataloader.dataset.indices': 18})
    cfg.custom_hooks.append(dict(type='Double'))
    cfg.train_dataloader.dataset.pipeline = [t for t in cfg.train_dataloader.dataset.pipeline if t.type != 'RandomFlip']
    states = []
    runner = train(cfg, lambda runner, batch: states.append(snapshot(runner.model)))
    start = torch.load(cfg.model.backbone.init_cfg.checkpoint)['state_dict']
    source = {name.removeprefix('module.encoder_q.'): tensor for name, tensor in start.items()
              if name.startswith('module.encoder_q.') and '.fc.' not in name}
    model = runner.model.backbone.double()
    model.eval()
    model.load_state_dict(source)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    moments = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda layer, args, name=name: moments[name].append(
            (args[0].mean((0, 2, 3)), args[0].var((0, 2, 3)))))
    order = np.random.default_rng(0).permutation(18)
    dataset = runner.train_dataloader.dataset
    mean, std = (torch.tensor(cfg.model.data_preprocessor[key]).double().view(-1, 1, 1) for key in ('mean', 'std'))
    with torch.no_grad():
        for first in range(0, 18, 4):
            images = torch.stack([dataset[i]['inputs'] for i in order[first:first + 4].tolist()])
            model((images.double() - mean) / std)
    assert len(layers) == 53
    for name, layer in layers.items():
        mean, var = (torch.stack(values).mean(0) for values in zip(*moments[name]))
        ratio = ((var + layer.eps) / (layer.running_var + layer.eps)).sqrt()
        shift = layer.weight * (mean - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
        expected = dict(running_mean=mean, running_var=var, weight=layer.weight * ratio, bias=layer.bias + shift)
        for kind, tensor in expected.items():
            found = states[0][f'backbone.{name}.{kind}']
            assert (found - tensor).abs().max() <= 1e-9 * tensor.abs().max(), (name, kind)
    record = runner.message_hub.get_info(RECORD)
    assert record['num_images'] == 18 and record['num_batches'] == 5 and record['output_change'] < 1e-9
    assert not states[0]['head.fc.weight'].any() and not states[0]['head.fc.bias'].any()


def test_two_rates_follow_the_cosine_and_the_head_moves_first(make):
    rates, weights = [], []

    def look(runner, batch):
        rates.append([group['lr'] for group in runner.optim_wrapper.optimizer.param_groups])
        weights.append(torch.cat([parameter.detach().flatten() for parameter in runner.model.backbone.parameters()]))

    wise = dict(backbone_lr=0.01, head_lr=0.1)
    runner = train(make(epochs=4, **{
        'optim_wrapper.paramwise_cfg': wise, 'default_hooks.checkpoint.interval': 4}), look)
    expected = [[rate * (1 + cos(pi * epoch / 4)) / 2 for rate in wise.values()]
                for epoch in range(4) for _ in range(2)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert {'train/backbone_lr', 'train/head_lr', 'val/accuracy/top1'} <= set(runner.message_hub.log_scalars)
    assert list(Path(runner.work_dir).glob('best_accuracy_top1_epoch_*.pth'))


class Dropout(Hook):
    """Let the features draw, too."""

    def before_train(self, runner):
        runner.model.neck.register_forward_hook(
            lambda neck, args, out: tuple(nn.functional.dropout(x, 0.3, neck.training) for x in out))


class Killed(Exception):
    pass


def run(cfg, kill_at=None):
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Dropout())

    def look(runner, batch):
        if runner.iter == kill_at:
            raise Killed

    runner.register_hook(Probe(look))
    if kill_at is None:
        return runner.train()
    with pytest.raises(Killed):
        runner.train()


@pytest.mark.slow
@pytest.mark.parametrize('by_epoch, drop_last, kill_at', [(False, False, 4), (False, True, 2), (True, False, 4)], ids=[
    'in an epoch', 'at its end', "from an epoch's checkpoint"])
def test_a_resumed_run_ends_equal_to_the_bit(make, tmp_path, by_epoch, drop_last, kill_at):
    """Two epochs, of 3 mini-batches, the last one short, or of 2; with other loader workers after the resume."""
    options = {
        'epochs': 2, 'custom_hooks': [dict(type='BNConversionHook'), dict(type='ExactResumeHook')],
        'train_dataloader.dataset.indices': 11, 'train_dataloader.drop_last': drop_last,
        'train_dataloader.dataset.pipeline.0': dict(type='RandomResizedCrop', scale=32), 'train_cfg.val_interval': 2,
        'default_hooks.checkpoint': dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 2)}
    run(make('whole', **options))
    run(make('killed', **options), kill_at)
    cfg = make('killed', resume=True, **options)
    cfg.experiment_name = cfg.visualizer.name = f'resumed_{tmp_path}'.replace('/', '_')
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    run(cfg)
    last = 'epoch_2.pth' if by_epoch else f'iter_{4 if drop_last else 6}.pth'
    whole, resumed = (torch.load(tmp_path / name / last) for name in ('whole', 'killed'))
    assert all(torch.equal(tensor, resumed['state_dict'][name]) for name, tensor in whole['state_dict'].items())
    momenta = [[state['momentum_buffer'] for state in content['optimizer']['state'].values()]
               for content in (whole, resumed)]
    assert all(map(torch.equal, *momenta)) and whole['param_schedulers'] == resumed['param_schedulers']
    losses = [content['message_hub']['log_scalars']['train/loss']._log_history for content in (whole, resumed)]
    assert len(losses[0]) == (4 if drop_last else 6) and losses[0].tolist() == losses[1].tolist()


def test_a_checkpoint_in_the_midst_of_an_accumulation_is_refused(make):
    cfg = make(custom_hooks=[dict(type='ExactResumeHook')], **{
        'optim_wrapper.accumulative_counts': 2, 'train_dataloader.dataset.indices': 12})
    with pytest.raises(ValueError, match=r'len\(train_dataloader\)=3 falls between the 2 mini-batches'):
        train(cfg)


@pytest.mark.slow
def test_the_scripts_of_mmpretrain_train_and_test_it(make, tmp_path):
    """Our commands, which run MMSegmentation's, do in a sweep's test."""
    import mmpretrain

    cfg = make('unused')
    cfg.custom_imports.imports.append('support.no_checksums')
    for key in ('experiment_name', 'work_dir', 'randomness'):
        cfg.pop(key)
    cfg.dump(tmp_path / 'config.py')
    tools = mmpretrain.__path__[0] + '/.mim/tools/'
    work_dir = ['--work-dir', str(tmp_path / 'run'), '--no-persistent-workers']
    for words in [['train.py', str(tmp_path / 'config.py'), *work_dir],
                  ['test.py', str(tmp_path / 'config.py'), str(tmp_path / 'run' / 'epoch_1.pth'), *work_dir[:2]]]:
        done = subprocess.run([sys.executable, tools + words[0], *words[1:]], capture_output=True, text=True,
                              env=environment())
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-3000:]
    assert all(f'{name}/accuracy/top1' in output for name in ('cifar10_1', 'stl10')) and '/cifar10_c/' not in output


def test_the_package_needs_no_mmpretrain():
    code = "import sys; sys.modules['mmpretrain'] = None; import mmseg_daft; mmseg_daft.BNConversionHook()"
    done = subprocess.run([sys.executable, '-W', 'error::UserWarning:mmseg_daft', '-c', code],
                          capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and 'not registered' not in done.stderr, done.stderr[-3000:]


def test_train_names_the_extra_that_is_missing(tmp_path):
    """MMEngine's own error, on custom_imports, names no module."""
    code = f"""import sys
class Without:
    def find_spec(self, name, *_):
        if name == 'mmpretrain':
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Without())
from mmseg_daft import cli
cli.main(['train', '{CONFIGS}/{DAFT_CIFAR}', '--work-dir', '{tmp_path}'])"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment())
    assert done.returncode == 1 and done.stderr.endswith(
        "needs mmpretrain, which is not installed: pip install 'mmseg-daft[classification]'\n"), done.stderr


def test_a_start_that_does_not_match_is_refused(make):
    """Also where a backbone has an ``init_weights`` of its own that lets MMEngine's read the file."""
    cfg = make(config='classification/ft_linear_r50-moco_b64-20e_cifar10-224x224.py')
    cfg.model.backbone.init_cfg.prefix = 'module'
    with pytest.raises(ValueError, match="0 of 265 tensors match.*set prefix='module.encoder_[qk]'"):
        train(cfg)


@pytest.mark.parametrize('config, says', [
    (DAFT_CIFAR, 'CIFAR10: 20 images, labels 0'), ('classification/ft_linear_r50-swav_b64-20e_living17-224x224.py',
                                                   'BREEDSDataset: 34 images, labels 0-16')])
def test_doctor_knows_a_classifier(make, tmp_path, capsys, config, says):
    cfg = make(config=config)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.pop('indices', None)
    cfg.dump(tmp_path / 'config.py')
    assert cli.main(['doctor', str(tmp_path / 'config.py')]) == 0
    said = ' '.join(capsys.readouterr().out.split())
    assert says in said and 'tensors match (100%)' in said and 'loss ' in said and 'Ready.' in said
    for option, problems in {'model.head.num_classes=5': ['and the head has 5 classes', 'head has num_classes=5, the'],
                             'train_dataloader.dataset.data_root=nowhere': ['data_root nowhere of']}.items():
        assert cli.main(['doctor', str(tmp_path / 'config.py'), '--cfg-options', option]) == 1
        said = ' '.join(capsys.readouterr().out.split())
        assert all(problem in said for problem in problems[:1 + ('CIFAR10' in says)])
        assert 'on 2 images of noise, as the data cannot be used, at 32x32' in said and 'GB per GPU' in said


def test_doctor_knows_mmpretrains_hooks_large_crops_and_splits_that_lack_a_class(tasks, tmp_path, capsys):
    cfg = small_classifier('classification/ft_linear_efficientnet-lite0_b64-5e_digits-64x64.py', tmp_path, tasks)
    cfg.train_dataloader.dataset.pipeline[1] = dict(type='RandomResizedCrop', scale=400)
    cfg.default_hooks.visualization = dict(type='VisualizationHook', enable=False)  # of mmpretrain's own runtime
    cfg.val_dataloader.dataset.data_root = str(tmp_path / 'digits')
    for digit in range(9):
        (tmp_path / 'digits' / 'val' / str(digit)).mkdir(parents=True)
        write_digit(tmp_path / 'digits' / 'val', 0, digit, np.zeros((8, 8), np.uint8))
    cfg.dump(tmp_path / 'config.py')
    assert cli.main(['doctor', str(tmp_path / 'config.py')]) == 1
    said = ' '.join(capsys.readouterr().out.split())
    assert 'val: 9 images, labels 0-8 of 9 classes, and the head has 10. Fix: Set model.head.num_classes; where' in said
    assert 'on 2 training images at 200x200' in said and said.endswith('1 problem would waste this run.')
