"""The README's lines under every way to inherit: doctor, training and what a sweep asks of a config work on each."""

import importlib.util
import os

import pytest
import torch
from support import ON_FORK
from support.pretrained_files import trained_state
from support.shipped_configs import CROP, SHIPPED, lines_to_paste
from support.small_runs import train

from mmseg_daft import cli
from mmseg_daft.doctor.finding import Verdict
from mmseg_daft.engine.configs import read_config
from mmseg_daft.engine.convert_model import RECORD

BASE = 'fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
SIZES = """
small = dict(type='BN', requires_grad=True)
model = dict(
    pretrained=None, data_preprocessor=dict(size={crop}),
    backbone=dict(stem_channels=4, base_channels=4, norm_cfg=small,
                  init_cfg=dict(type='Pretrained', checkpoint={start!r}, prefix='backbone')),
    decode_head=dict(in_channels=128, channels=8, norm_cfg=small),
    auxiliary_head=dict(in_channels=64, channels=8, norm_cfg=small))
part = dict(data_root={root!r}, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=part)
val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
train_cfg = dict(max_iters=2, val_interval=2)
work_dir = {run!r}
"""
PURE = '''
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.model import PretrainedInit
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from mmseg.datasets import CityscapesDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, ResNetV1c, SegDataPreProcessor
from mmseg.visualization import SegLocalVisualizer
from torch.nn import BatchNorm2d
from torch.optim import SGD

default_scope = None
norm = dict(type=BatchNorm2d, requires_grad=True)
loss = dict(type=CrossEntropyLoss, use_sigmoid=False)
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True, pad_val=0,
                           seg_pad_val=255, size={crop}),
    backbone=dict(type=ResNetV1c, depth=50, stem_channels=4, base_channels=4, norm_cfg=norm,
                  init_cfg=dict(type=PretrainedInit, checkpoint={start!r}, prefix='backbone')),
    decode_head=dict(type=FCNHead, in_channels=128, in_index=3, channels=8, num_convs=1, num_classes=19,
                     norm_cfg=norm, loss_decode=loss),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
load = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(type=CityscapesDataset, data_root={root!r}, pipeline=load,
                 data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=CityscapesDataset, data_root={root!r}, pipeline=load,
                 data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val')))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg, test_cfg = dict(type=ValLoop), dict(type=TestLoop)
default_hooks = dict(
    timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook, interval=1), param_scheduler=dict(
    type=ParamSchedulerHook), checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2))
visualizer = dict(type=SegLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)], name='visualizer')
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01, momentum=0.9))
log_processor = dict(by_epoch=False)
work_dir = {run!r}
'''


def mmseg_scope(folder, values):
    return f"_base_ = 'mmseg::{BASE}'\n{lines_to_paste()}{SIZES.format(**values)}"


def relative(folder, values):
    base = os.path.relpath(SHIPPED / BASE, folder)
    return f'_base_ = {base!r}\n{lines_to_paste()}{SIZES.format(**values)}'


def pure_python(folder, values):
    """The README's lines beside a base of classes; dict.update keeps what it inherits, as MMEngine documents."""
    (folder / 'base.py').write_text(PURE.format(**values))
    lines = lines_to_paste().replace('optim_wrapper = dict(', 'optim_wrapper.update(', 1)
    return f'from mmengine.config import read_base\nwith read_base():\n    from .base import *\n{lines}'


def all_classes(folder, values):
    """Our hook and constructor as classes, too."""
    text = pure_python(folder, values).replace("custom_imports = dict(imports=['mmseg_daft'])\n", '')
    text = text.replace("'BNConversionHook'", 'BNConversionHook').replace(
        "'DAFTOptimWrapperConstructor'", 'DAFTOptimWrapperConstructor').replace("'PolyLR'", 'PolyLR')
    head = 'from mmengine.optim import PolyLR\nfrom mmseg_daft.engine import BNConversionHook, ' \
           'DAFTOptimWrapperConstructor\n'
    return head + text


WAYS = [mmseg_scope, relative, pure_python, all_classes]


@pytest.fixture(scope='module')
def mine(tmp_path_factory, cityscapes_root):
    """Write a user's config of a kind, once each."""
    written = {}

    def write(way):
        if way is mmseg_scope and importlib.util.find_spec('pkg_resources') is None:
            pytest.skip('MMEngine needs pkg_resources for mmseg::, and this setuptools lacks it')
        if way is mmseg_scope and ON_FORK:
            pytest.skip('onedl-mmengine looks for mmseg:: in a package mmsegmentation, which the fork is not')
        if way not in written:
            folder = tmp_path_factory.mktemp(way.__name__)
            values = dict(crop=CROP, start=str(folder / 'start.pth'), root=str(cityscapes_root),
                          run=str(folder / 'run'))
            norm = dict(type='BN', requires_grad=True)
            state = trained_state(dict(type='mmseg.ResNetV1c', depth=50, stem_channels=4, base_channels=4,
                                       norm_cfg=norm))
            torch.save({'state_dict': {f'backbone.{name}': value for name, value in state.items()}},
                       folder / 'start.pth')
            written[way] = folder / 'mine.py'
            written[way].write_text(way(folder, values).replace('end=40000', 'end=2'))
        return written[way]
    return write


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
def test_training(mine, way):
    cfg = read_config(mine(way))
    cfg.experiment_name = cfg.visualizer.name = way.__name__
    runner = train(cfg)
    record = runner.message_hub.get_info(RECORD)
    assert record['num_images'] == 6 and len(record['shifts']) == 55
    assert set(runner.optim_wrapper.get_lr()) == {'backbone_lr', 'head_lr'} and runner.iter == 2


@pytest.mark.parametrize('way', WAYS)
def test_doctor(mine, way, examine):
    exam = examine(mine(way))
    wrong = [finding for finding in exam.findings if finding.verdict in (Verdict.FAIL, Verdict.SKIP)]
    assert all('the released split has' in finding.found for finding in wrong), wrong
    assert 'backbone 0.01, head 0.1' in exam.text('rates', Verdict.OK)
    assert 'BNConversionHook' in exam.text('hooks', Verdict.OK) and not exam.text('hooks', Verdict.WARN)
    assert '55 of 55' in exam.text('conversion', Verdict.OK)
    assert 'tensors match (100%)' in exam.text('weights', Verdict.OK)


@pytest.mark.slow
@pytest.mark.parametrize('way', [mmseg_scope, all_classes])
def test_the_commands(mine, way, tmp_path, monkeypatch, capsys):
    """What reads a config without training it, and what reads a run."""
    monkeypatch.chdir(tmp_path)
    config = str(mine(way))
    start = str(mine(way).parent / 'start.pth')
    assert cli.main(['train', config, '--work-dir', str(tmp_path / 'run')]) == 0
    for words in (['domain-gap', config, '--out', 'gap', '--probe-batches', '2'],
                  ['convert', config, start, 'converted.pth'],
                  ['analyze', config, 'DAFT=run', '--out', 'report', '--workers', '0'],
                  ['sweep', 'plan', 'sweep', '--method', f'daft={config}']):
        assert not cli.main(words), (words, capsys.readouterr())
