"""Every config is built and trained for a few iterations on data of its layout, with sizes turned down."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from support.pretrained_files import write_start
from support.small_runs import CONFIGS, small, train

from mmseg_daft.engine import BNConversionHook
from mmseg_daft.engine.convert_model import RECORD
from mmseg_daft.sweep.protocol import BASELINES

METHODS = ('source', 'lp', 'ft', 'lpft', 'daft', 'ablation', 'baselines')
STAYS = {'frozen-statistics': r'\.running_', 'frozen-bn': r'(bn\d|downsample\.1)\.', 'surgical': r'\.layer[234]\.'}
"""What a baseline keeps of the backbone's start."""
SHIPPED = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob('[!_]*/*.py'))
ALL = [name for name in SHIPPED if not name.startswith('classification')]
"""Those for mmseg; tests/classification has the others."""
TRAINED = [name for name in ALL if not name.startswith('baselines') or 'camvid' in name
           if 'lite0' not in name or 'shapes' in name or name.startswith('daft')]
"""One of what differs in its data alone; the others only cost time."""


def test_all_configs_are_here():
    assert len(ALL) == 77
    assert {Path(name).parts[0] for name in ALL} == set(METHODS)


def test_the_readme_lists_every_config_once():
    rows = re.findall(r'^\| `([\w/{},.-]+\.py)` \|', (CONFIGS / 'README.md').read_text(), re.MULTILINE)
    listed = []
    for row in rows:
        parts = [part.split(',') for part in re.split(r'\{(.*?)\}', row)]
        listed += map(''.join, product(*parts))
    assert sorted(listed) == SHIPPED


@pytest.fixture
def make(voc_root, cityscapes_root, camvid_layout, shapes_root, tmp_path):
    """Return a function that turns a config's sizes down and writes what it starts from."""
    roots = {'voc12aug': voc_root, 'cityscapes': cityscapes_root, 'camvid': camvid_layout, 'shapes': shapes_root}

    def make_small(name):
        cfg = small(name, tmp_path / 'run', roots[Path(name).stem.split('_')[-1].split('-')[0]])
        assert (write_start(cfg, tmp_path) is None) == name.startswith('source')
        return cfg
    return make_small


@pytest.mark.parametrize('name', ALL)
def test_config_builds(name, make):
    """Model, data sets, hooks and optimizer; the next test trains them."""
    cfg = make(name)
    init_default_scope('mmseg')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        classes = Runner.build_dataloader(loader, seed=0).dataset.metainfo['classes']
        assert len(classes) == cfg.model.decode_head.num_classes
    del cfg.default_hooks.visualization  # needs a runner's visualizer
    hooks = [HOOKS.build(hook) for hook in (*cfg.get('custom_hooks', []), *cfg.default_hooks.values())]
    converts = any(isinstance(hook, BNConversionHook) for hook in hooks)
    assert converts == ('daft_' in name or '-conversion' in name)
    groups = build_optim_wrapper(MODELS.build(cfg.model), cfg.optim_wrapper).optimizer.param_groups
    frozen = name.startswith('lp/') and cfg.model.backbone.type == 'ResNet'  # timm's cannot be: its rate is 0
    stages = {'stem', 'stage1', 'stage2', 'stage3', 'stage4'} if 'layer_decay' in (
        wise := cfg.optim_wrapper.paramwise_cfg) or 'stage_lr_mult' in wise else {'backbone'}
    assert {group['name'] for group in groups} == ({'head'} if frozen else {*stages, 'head'})
    assert all(group['lr'] > 0 or name.startswith(('lp/', 'baselines/surgical')) for group in groups)


@pytest.mark.slow
@pytest.mark.parametrize('name', TRAINED)
def test_config_trains_and_evaluates(name, make, tmp_path):
    runner = train(make(name))
    assert runner.iter == 2 and (tmp_path / 'run' / 'iter_2.pth').is_file()
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert torch.isfinite(torch.as_tensor(loss))
    assert 0 <= runner.message_hub.get_scalar('val/mIoU').current() <= 100
    if name.startswith('baselines'):
        stays = STAYS.get(Path(name).stem.split('_')[0], '^$')
        start = torch.load(runner.cfg.model.backbone.init_cfg.checkpoint)['state_dict']
        state = runner.model.state_dict()
        for tensor in start:
            if not tensor.endswith('tracked'):
                assert torch.equal(start[tensor], state[tensor]) == bool(re.search(stays, tensor)), tensor


@pytest.mark.slow
def test_day_to_dusk_on_the_real_images(camvid_root, tmp_path, monkeypatch):
    """The two commands of configs/README.md, slim and short: source model, then DAFT from it."""
    monkeypatch.setenv('CAMVID_ROOT', str(camvid_root))
    source, daft = (next(name for name in ALL if name.startswith(method) and data in name)
                    for method, data in (('source', 'camvid'), ('daft', 'r18-day')))
    train(small(source, tmp_path / 'source', iters=4))
    cfg = small(daft, tmp_path / 'daft', iters=2)
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'source' / 'iter_4.pth')
    record = train(cfg).message_hub.get_info(RECORD)
    assert record['num_images'] == 62 and record['output_change'] < 1e-4
    assert max(mean for mean, _ in record['shifts'].values()) > 0.1


@pytest.mark.parametrize('name', [name for name in ALL if name.startswith('daft')])
def test_daft_is_its_ft_baseline_plus_conversion_and_rates(name):
    daft, ft = (Config.fromfile(CONFIGS / n).to_dict() for n in (name, name.replace('daft', 'ft')))
    assert daft.pop('custom_hooks') == [dict(type='BNConversionHook')]
    rates, base_rates = daft['optim_wrapper'].pop('paramwise_cfg'), ft['optim_wrapper'].pop('paramwise_cfg')
    assert base_rates['backbone_lr'] == base_rates['head_lr'] and rates['backbone_lr'] != rates['head_lr']
    if 'linear' in name:
        assert daft['model']['decode_head'].pop('init_cfg') == dict(type='ZeroHead')
    assert daft == ft
    assert len((CONFIGS / name).read_text().splitlines()) <= 10


@pytest.mark.parametrize('name', BASELINES)
def test_a_baseline_is_ft_with_one_change_that_is_the_same_on_both_data_sets(name):
    changes = []
    for data in ('r18-day_b8-200_camvid-dusk-160x160', 'r50-moco_b16-30k_voc12aug-513x513'):
        text = (CONFIGS / 'baselines' / f'{name}_deeplabv3plus_{data}.py').read_text()
        assert f"_base_ = '../ft/ft_deeplabv3plus_{data}.py'" in text
        changes.append(text.split('_base_')[1].partition('\n')[2])
    assert changes[0] == changes[1] and len(changes[0].splitlines()) <= 4


@pytest.mark.parametrize('name', ALL)
def test_the_header_holds_the_command(name):
    header = [line for line in (CONFIGS / name).read_text().splitlines() if line.startswith('#')]
    assert any(f'mmseg-daft train configs/{name}' in line for line in header)
