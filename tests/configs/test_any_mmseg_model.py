"""The README's lines in configs that mmseg ships: model families become DAFT as they are, or are refused kindly."""

import pytest
import timm
import torch
import torchvision
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from safetensors.torch import load_file, save_file
from support.data_layouts import write_pair
from support.networks import pretrained
from support.shipped_configs import paste
from support.small_runs import train

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.engine.convert_model import RECORD

VOC, CITYSCAPES = '_voc12aug-512x512.py', '_cityscapes-512x1024.py'
HEADS = {'model.decode_head.channels': 16, 'model.auxiliary_head.channels': 16}
SLIM = {'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8}

FAMILIES = [  # decoder and backbone; the shipped config; what is turned down besides sizes
    ('PSPNet, ResNetV1c', f'pspnet/pspnet_r50-d8_4xb4-20k{VOC}', {
        **SLIM, **HEADS, 'model.decode_head.in_channels': 256, 'model.auxiliary_head.in_channels': 128}),
    ('UPerNet, ResNetV1c', f'upernet/upernet_r50_4xb4-20k{VOC}', {
        **SLIM, **HEADS, 'model.decode_head.in_channels': [32, 64, 128, 256], 'model.auxiliary_head.in_channels': 128}),
    ('FCN, HRNet', f'hrnet/fcn_hr18s_4xb4-20k{VOC}', {}),
    ('OCRNet in two stages, HRNet', f'ocrnet/ocrnet_hr18s_4xb4-20k{VOC}', {
        'model.decode_head.1.channels': 16, 'model.decode_head.1.ocr_channels': 8}),
    ('DeepLabv3+, ResNeXt', f'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k{VOC}', {
        **SLIM, **HEADS, 'model.backbone.type': 'ResNeXt', 'model.backbone.groups': 4, 'model.backbone.base_width': 4,
        'model.decode_head.in_channels': 256, 'model.decode_head.c1_in_channels': 32,
        'model.auxiliary_head.in_channels': 128}),
    ('DeepLabv3+, MobileNetV2', f'mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k{CITYSCAPES}', {}),
    ('Semantic FPN with a neck, ResNet', f'sem_fpn/fpn_r50_4xb2-80k{CITYSCAPES}', {}),
    ('FCN, ResNeSt', f'resnest/resnest_s101-d8_fcn_4xb2-80k{CITYSCAPES}', {
        'model.backbone.depth': 50, 'model.backbone.stem_channels': 64}),
    ('BiSeNetV2', 'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py', {}),
    ('Fast-SCNN', f'fastscnn/fast_scnn_8xb4-160k{CITYSCAPES}', {}),
    ('ERFNet', f'erfnet/erfnet_fcn_4xb4-160k{CITYSCAPES}', {}),
    ('UNet', 'unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py', {'model.backbone.base_channels': 8,
     'model.decode_head.in_channels': 8, 'model.decode_head.channels': 8, 'model.auxiliary_head.in_channels': 16})]


@pytest.mark.slow
@pytest.mark.parametrize(
    'shipped, options', [family[1:] for family in FAMILIES], ids=[family[0] for family in FAMILIES])
def test_family(shipped, options, voc_root, cityscapes_root, tmp_path):
    cfg = paste(shipped, tmp_path, voc_root if 'voc12aug' in shipped else cityscapes_root, **options)
    weights = []
    runner = train(cfg, lambda runner, batch: weights.append(
        {name: parameter.detach().clone() for name, parameter in runner.model.named_parameters()}))
    record = runner.message_hub.get_info(RECORD)
    assert set(record['shifts']) == set(find_batch_norms(runner.model, ('backbone',)))
    assert record['output_change'] < 1e-4 and record['num_images'] == len(runner.train_dataloader.dataset)
    groups = runner.optim_wrapper.optimizer.param_groups
    assert [(group['name'], group['initial_lr']) for group in groups] == [('backbone', 0.01), ('head', 0.1)]
    assert sum(len(group['params']) for group in groups) == len(weights[0])
    assert runner.iter == 2 and torch.isfinite(torch.as_tensor(runner.message_hub.get_scalar('train/loss').current()))
    for part in ('backbone', 'decode_head'):
        assert any(not torch.equal(weights[0][n], weights[1][n]) for n in weights[0] if n.startswith(part)), part


def test_there_are_at_least_eight_families():
    assert len({shipped.split('/')[0] for _, shipped, _ in FAMILIES}) >= 8


def timm_config(name, trained, voc_root, tmp_path):
    """A shipped config with a backbone of timm's, which reads a file of its own format itself."""
    torch.manual_seed(0)
    save_file(pretrained(timm.create_model(trained)).state_dict(), tmp_path / 'model.safetensors')
    cfg = paste(f'fcn/fcn_r50-d8_4xb4-20k{VOC}', tmp_path, voc_root, **{
        'model.backbone': dict(_delete_=True, type='TIMMBackbone', model_name=name, features_only=True, pretrained=True,
                               pretrained_cfg_overlay=dict(file=str(tmp_path / 'model.safetensors'))),
        'model.auxiliary_head': None, 'model.decode_head.in_index': 4, 'model.decode_head.channels': 16,
        'model.decode_head.in_channels': timm.create_model(name, features_only=True).feature_info.channels()[4]})
    cfg.model.backbone.init_cfg = None
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'regnetx_002', 'densenet121'])  # timm renames the layers of the last
def test_a_backbone_of_timm_with_a_file(name, voc_root, tmp_path):
    cfg = timm_config(name, name, voc_root, tmp_path)
    states = []
    runner = train(cfg, lambda runner, batch: states.append(
        {key: tensor.clone() for key, tensor in runner.model.backbone.state_dict().items()}))
    file = {key.replace('.', '_'): tensor for key, tensor in load_file(tmp_path / 'model.safetensors').items()}
    convs = [key for key, tensor in states[0].items() if tensor.dim() == 4]
    assert convs and all(torch.equal(states[0][key], file[key.removeprefix('timm_model.').replace('.', '_')])
                         for key in convs)
    assert set(runner.message_hub.get_info(RECORD)['shifts']) == set(find_batch_norms(runner.model, ('backbone',)))


def test_a_file_of_another_network_is_refused(voc_root, tmp_path):
    cfg = timm_config('resnet18', 'regnetx_002', voc_root, tmp_path)
    cfg.custom_hooks = [dict(type='PretrainedWeightsHook')]
    with pytest.raises(ValueError, match='backbone loads its weights itself.*20 batch-norm.*file is not that of this'):
        train(cfg)


class ConvNeXt(BaseModule):
    """torchvision's, as a backbone: mmseg's own config takes it from mmpretrain."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.features = torchvision.models.convnext_tiny().features

    def forward(self, x):
        return [self.features(x)]


def refuse(cfg):
    with pytest.raises(
            ValueError, match='hold no batch-norm layer, so there is nothing to convert.*without the conversion'):
        train(cfg)


def test_convnext_is_refused(voc_root, tmp_path):
    MODELS.register_module(name='TorchvisionConvNeXt', module=ConvNeXt, force=True)
    refuse(paste(f'fcn/fcn_r50-d8_4xb4-20k{VOC}', tmp_path, voc_root, **{
        'model.backbone': dict(_delete_=True, type='TorchvisionConvNeXt'), 'model.auxiliary_head': None,
        'model.decode_head.in_channels': 768, 'model.decode_head.in_index': 0}))


@pytest.mark.parametrize('replaced', [False, True])
def test_the_convnext_that_mmseg_ships_is_refused(tmp_path, replaced):
    pytest.importorskip('mmpretrain', reason="mmseg's ConvNeXt is mmpretrain's")
    write_pair(tmp_path / 'images/training/a.jpg', tmp_path / 'annotations/training/a.png', (80, 80), 150, 0)
    cfg = paste('convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py', tmp_path, tmp_path)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer, **{
        key: cfg.optim_wrapper[key] for key in ('constructor', 'paramwise_cfg')})  # without AMP
    if not replaced:
        with pytest.raises(ValueError, match="does not take 'decay_rate'.*_delete_=True"):
            train(cfg)
        return
    for key in ('decay_rate', 'decay_type', 'num_layers'):
        del cfg.optim_wrapper.paramwise_cfg[key]
    refuse(cfg)


def test_a_transformer_is_refused(cityscapes_root, tmp_path):
    cfg = paste('segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py', tmp_path, cityscapes_root)
    del cfg.optim_wrapper.paramwise_cfg['custom_keys']  # refused by name, before
    refuse(cfg)
