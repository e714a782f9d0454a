"""The lines that the README tells users to copy, run: in a config that mmseg ships, and on others' PyTorch models."""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from support.shipped_configs import lines_to_paste, paste
from support.small_runs import train
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmseg_daft import cli
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.engine.convert_model import RECORD

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PAGES = [page for folder in ('', 'configs', 'docs', 'benchmarks') for page in (ROOT / folder).glob('*.md')
         if page.name != 'CHANGELOG.md']  # which names what was


def test_the_config_lines_make_daft_of_a_shipped_config(tmp_path, voc_root):
    """Many more families: tests/configs/test_any_mmseg_model.py."""
    assert len(lines_to_paste().splitlines()) <= 5
    runner = train(paste('pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py', tmp_path, voc_root, **{
        'model.backbone.stem_channels': 4, 'model.backbone.base_channels': 4, 'model.decode_head.in_channels': 128,
        'model.decode_head.channels': 8, 'model.auxiliary_head.in_channels': 64, 'model.auxiliary_head.channels': 8}))
    record = runner.message_hub.get_info(RECORD)
    assert record['num_images'] == 13 and len(record['shifts']) == 55  # the stem of ResNetV1c has 3 layers
    assert set(runner.optim_wrapper.get_lr()) == {'backbone_lr', 'head_lr'}


def classifier(backbone):
    return nn.Sequential(OrderedDict(backbone=backbone, classifier=nn.LazyLinear(5)))


def deeplab():
    return torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5)


def timm_model(name, norm):
    timm = pytest.importorskip('timm')
    backbone = timm.create_model(name, pretrained=False, num_classes=0)
    assert any(type(layer).__name__ == norm for layer in backbone.modules())
    return classifier(backbone)


def unet():
    return pytest.importorskip('segmentation_models_pytorch').Unet('resnet18', encoder_weights=None, classes=5)


@pytest.mark.parametrize('make, backbone, head', [
    (deeplab, 'backbone', ['classifier']),
    (lambda: timm_model('resnet10t', 'BatchNorm2d'), 'backbone', ['classifier']),
    (lambda: timm_model('mobilenetv3_small_050', 'BatchNormAct2d'), 'backbone', ['classifier']),
    (unet, 'encoder', ['decoder', 'segmentation_head']),
], ids=['torchvision', 'timm', 'timm with BatchNormAct2d', 'segmentation_models_pytorch'])
def test_the_pytorch_lines(make, backbone, head):
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        for _ in range(3):  # pre-trained, as far as batch norm goes
            model(torch.randn(4, 3, 64, 64))
    images = 0.4 * torch.rand(10, 3, 64, 64) + 0.5
    before, statistics = outputs(model.eval(), images), means(model)
    lines = re.findall(r'```python\n(.*?)```', README, re.DOTALL)[1]
    lines = lines.replace("['classifier']", repr(head)).replace("('backbone',)", repr((backbone,)))
    names = dict(model=model, loader=DataLoader(TensorDataset(images, torch.arange(10)), batch_size=4))
    exec(lines.replace("['backbone']", repr([backbone])), names)
    after = outputs(model, images)
    assert (after - before).abs().max() <= 1e-4 * before.abs().max()
    moved = {name for name, mean in means(model).items() if not torch.equal(mean, statistics[name])}
    assert moved == {name for name in statistics if name.startswith(f'{backbone}.')} and moved
    assert str(len(moved)) in names['report'].summary()
    groups = names['optimizer'].param_groups
    assert [(group['name'], group['lr']) for group in groups] == [('backbone', 0.01), ('head', 0.1)]
    assert sum(len(group['params']) for group in groups) == len(list(model.parameters()))


@torch.no_grad()
def outputs(model, images):
    out = model(images)
    return out['out'] if isinstance(out, dict) else out


def means(model):
    return {name: layer.running_mean.clone() for name, layer in model.named_modules() if isinstance(layer, BatchNorm)}


def test_the_picture_can_be_drawn(tmp_path):
    from docs.draw_conversion import Segmentor, convert_batch_norm, draw, pretrain, render

    torch.manual_seed(0)
    (source, labels), (target, _) = render('day', 8), render('night', 8)
    before, after = Segmentor(), Segmentor()
    pretrain(before, source, labels, iterations=2)
    after.load_state_dict(before.state_dict())
    convert_batch_norm(after, target.split(4), modules=('backbone',))
    draw(before.eval(), after, source, target, tmp_path / 'conversion.png')
    assert (tmp_path / 'conversion.png').stat().st_size > 10_000
    assert (ROOT / 'docs' / 'conversion.png').stat().st_size < 120 * 1024


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text()
    assert not re.search(r'@[A-Z]+@|TODO', text), 'something is left to fill in'
    for path in re.findall(r'\]\(([^)#]+)\)', text):
        assert path.startswith('http') or (page.parent / path).exists(), path
    for path in re.findall(r'\b(?:configs|tools|benchmarks)/[\w./-]+\.(?:py|sh)\b', text):
        assert (ROOT / path).is_file() or 'CONFIG' in path, path
    assert set(re.findall(r'mmseg-daft ([a-z][a-z-]+)', text)) <= set(cli.COMMANDS)
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    assert set(re.findall(r'(?:^    |`)make ([a-z-]+)', text, re.MULTILINE)) <= targets
