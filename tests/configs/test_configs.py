"""Every config is built and trained for a few iterations on data of its layout, with sizes turned down."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from support.pretrained_files import write_start
from support.small_runs import CONFIGS, small, train

from mmseg_daft.engine import BNConversionHook
from mmseg_daft.engine.convert_model import RECORD

METHODS = ('source', 'lp', 'ft', 'lpft', 'daft', 'ablation')
ALL = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob('[!_]*/*.py'))


def test_all_configs_are_here():
    assert len(ALL) == 54
    assert {Path(name).parts[0] for name in ALL} == set(METHODS)


def test_the_readme_lists_every_config_once():
    rows = re.findall(r'^\| `([\w/{},.-]+\.py)` \|', (CONFIGS / 'README.md').read_text(), re.MULTILINE)
    listed = []
    for row in rows:
        before, *choices = re.split(r'\{(.*?)\}', row)
        assert len(choices) in (0, 2)
        listed += [before + choice + choices[1] for choice in choices[0].split(',')] if choices else [row]
    assert sorted(listed) == ALL


@pytest.mark.parametrize('name', ALL)
def test_config_trains_and_evaluates(name, voc_root, cityscapes_root, camvid_layout, shapes_root, tmp_path):
    root = {'voc12aug': voc_root, 'cityscapes': cityscapes_root, 'camvid': camvid_layout, 'shapes': shapes_root}[
        Path(name).stem.split('_')[-1].split('-')[0]]
    cfg = small(name, tmp_path / 'run', root)
    assert (write_start(cfg, tmp_path) is None) == name.startswith('source')
    classes = []
    runner = train(cfg, lambda runner, batch: classes.append(runner.train_dataloader.dataset.metainfo['classes']))
    assert runner.iter == 2 and (tmp_path / 'run' / 'iter_2.pth').is_file()
    assert len(classes[0]) == cfg.model.decode_head.num_classes
    converts = any(isinstance(hook, BNConversionHook) for hook in runner.hooks)
    assert converts == ('daft_' in name or '-conversion' in name)
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert torch.isfinite(torch.as_tensor(loss))
    assert 0 <= runner.message_hub.get_scalar('val/mIoU').current() <= 100


def test_day_to_dusk_on_the_real_images(camvid_root, tmp_path, monkeypatch):
    """The two commands of configs/README.md, slim and short: source model, then DAFT from it."""
    monkeypatch.setenv('CAMVID_ROOT', str(camvid_root))
    source, daft = (next(name for name in ALL if name.startswith(method) and 'camvid' in name)
                    for method in ('source', 'daft'))
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


@pytest.mark.parametrize('name', ALL)
def test_the_header_holds_the_command(name):
    header = [line for line in (CONFIGS / name).read_text().splitlines() if line.startswith('#')]
    assert any(f'python tools/train.py configs/{name}' in line for line in header)
