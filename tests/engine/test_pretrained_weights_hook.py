"""Weights in each file's real key layout: what matches starts, what does not stops the training and is listed."""

import pytest
import torch
from mmseg.registry import MODELS
from support.pretrained_files import backbone_state, write_moco, write_start, write_torchvision
from support.small_runs import FT_VOC, small, train

from mmseg_daft.engine.pretrained_weights import pretrained_starts

VOC = 'ft/ft_deeplabv3plus_r50-{}_b16-30k_voc12aug-513x513.py'


@pytest.fixture
def config(voc_root, tmp_path):
    def make(name=FT_VOC, **options):
        cfg = small(name, tmp_path / 'run', voc_root, 1)
        cfg.merge_from_dict(options)
        return cfg
    return make


def first_state(cfg):
    states = []
    train(cfg, lambda runner, batch: states.append({n: t.clone() for n, t in runner.model.state_dict().items()}))
    return states[0]


@pytest.mark.parametrize('start', ['moco', 'swav', 'supervised', 'clip'])
def test_every_tensor_of_a_released_layout_is_loaded(config, tmp_path, start):
    cfg = config(VOC.format(start))
    address = cfg.model.backbone.init_cfg.checkpoint
    assert address.removeprefix('torchscript://').startswith('https://')
    write_start(cfg, tmp_path)
    loaded = first_state(cfg)
    expected = backbone_state(cfg.model)
    for name, tensor in expected.items():
        if start == 'clip' and tensor.is_floating_point():
            tensor = tensor.half().float()  # as released
        if 'num_batches' not in name:
            assert torch.equal(loaded[f'backbone.{name}'], tensor), name


def refuse(cfg, match):
    with pytest.raises(ValueError, match=match):
        train(cfg)


def test_another_prefix_is_suggested(config, tmp_path):
    cfg = config()
    write_moco(tmp_path / 'other.pth', cfg.model)
    cfg.model.backbone.init_cfg.update(checkpoint=str(tmp_path / 'other.pth'), prefix='encoder_q')
    refuse(cfg, r'0 of 265 tensors match.*Not in the file \(265\): conv1.weight.*'
                r"set prefix='module.encoder_[qk]' in init_cfg")


def test_a_start_that_is_not_there_is_said_with_what_to_do(config, tmp_path):
    """The source model was not trained yet."""
    cfg = config()
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'iter_1500.pth')
    with pytest.raises(FileNotFoundError, match='iter_1500.pth is not there.*train the model that writes it'):
        train(cfg)


def test_a_stem_of_another_shape(config, tmp_path):
    """mmseg's ResNetV1c has three stem convolutions, MoCo's file one."""
    cfg = config(**{'model.backbone.type': 'ResNetV1c'})
    plain = config()
    write_moco(tmp_path / 'moco.pth', plain.model)
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'moco.pth')
    refuse(cfg, 'of 275 tensors match.*Not in the file .*stem.0.weight, stem.1.weight.*stem.1.running_mean')


def test_one_lost_statistic_is_enough(config, tmp_path):
    cfg = config()
    state = backbone_state(cfg.model)
    del state['layer2.0.bn1.running_var']
    torch.save({f'module.encoder_q.{name}': tensor for name, tensor in state.items()}, tmp_path / 'moco.pth')
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'moco.pth')
    refuse(cfg, r'264 of 265 tensors match \(100%.*Not in the file \(1\): layer2.0.bn1.running_var')


def test_another_width_lists_the_shapes(config, tmp_path):
    cfg = config(VOC.format('supervised'))
    wide = config(VOC.format('supervised'), **{'model.backbone.base_channels': 8})
    write_torchvision(tmp_path / 'wide.pth', wide.model)
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'wide.pth')
    refuse(cfg, r'layer1.0.conv1.weight \(8, 4, 1, 1\) in the file, \(4, 4, 1, 1\) in the model')


def test_the_share_can_be_lowered_but_not_for_statistics(config, tmp_path):
    cfg = config(**{'default_hooks.pretrained.min_share': 0.5})
    state = backbone_state(cfg.model)
    some = {name: tensor for name, tensor in state.items() if 'conv' not in name}
    torch.save({f'module.encoder_q.{name}': tensor for name, tensor in some.items()}, tmp_path / 'moco.pth')
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'moco.pth')
    train(cfg)
    cfg = config()
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'moco.pth')
    refuse(cfg, 'at least 95%')


def test_a_part_that_the_file_lacks_as_a_whole_can_be_allowed(config, tmp_path):
    cfg = config()
    state = {name: tensor for name, tensor in backbone_state(cfg.model).items() if not name.startswith('layer4.')}
    torch.save({f'module.encoder_q.{name}': tensor for name, tensor in state.items()}, tmp_path / 'moco.pth')
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'moco.pth')
    refuse(cfg, 'at least 95%.* It has nothing of layer4')
    cfg = config(**{'default_hooks.pretrained.min_share': 0.7, 'custom_hooks': None})
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'moco.pth')
    train(cfg)


def test_load_from_has_to_match_the_backbone_but_not_the_head(config, tmp_path):
    cfg = config()
    write_start(cfg, tmp_path)
    train(cfg)
    trained = torch.load(tmp_path / 'run' / 'iter_1.pth')['state_dict']
    other = config(**{'model.decode_head.num_classes': 30, 'model.backbone.init_cfg': None,
                      'load_from': str(tmp_path / 'run' / 'iter_1.pth')})
    loaded = first_state(other)
    assert all(torch.equal(loaded[name], trained[name]) for name in trained if name.startswith('backbone'))
    torch.save({'state_dict': {f'model.{name}': tensor for name, tensor in trained.items()}}, tmp_path / 'wrapped.pth')
    refuse(config(load_from=str(tmp_path / 'wrapped.pth'), **{'model.backbone.init_cfg': None}),
           "load_from=.*wrapped.pth.* do not match: 0 of 265.*set prefix='model' in init_cfg")


def test_a_prefix_too_many(config, tmp_path):
    cfg = config(VOC.format('supervised'))
    write_torchvision(tmp_path / 'flat.pth', cfg.model)
    state = torch.load(tmp_path / 'flat.pth')
    torch.save(state, tmp_path / 'flat.pth')
    cfg.model.backbone.init_cfg.update(checkpoint=str(tmp_path / 'flat.pth'), prefix='backbone')
    refuse(cfg, '0 of 265.*without prefix: leave it out of init_cfg')


def test_a_module_that_translates_names_by_itself_is_left_alone(config, tmp_path):
    """mmseg's Swin reads files of the original names: a comparison of names would refuse a sound start."""
    torch.save({'model': {'patch_embed.proj.weight': torch.zeros(1)}}, tmp_path / 'swin.pth')
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    swin = MODELS.build(dict(type='SwinTransformer', embed_dims=8, depths=(1, 1), num_heads=(1, 1), strides=(4, 2),
                             out_indices=(0, 1), init_cfg=start))
    resnet = MODELS.build(dict(type='ResNet', depth=18, base_channels=4, stem_channels=4, init_cfg=start))
    assert [found.own_loading for found in pretrained_starts(swin)] == [True]
    assert [found.own_loading for found in pretrained_starts(resnet)] == [False]


def test_a_resumed_run_is_left_alone(config, tmp_path):
    cfg = config()
    start = write_start(cfg, tmp_path)
    train(cfg)
    cfg = config(resume=True, **{'train_cfg.max_iters': 2})
    cfg.model.backbone.init_cfg = None
    start.unlink()
    assert train(cfg).iter == 2
