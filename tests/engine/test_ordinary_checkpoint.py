"""A converted model is an ordinary one: it is exported, compiled and read like any other."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch._dynamo
from mmengine.registry import init_default_scope
from mmseg.apis import init_model
from support.pretrained_files import write_start
from support.small_runs import DAFT_VOC, SMALL, small, train

from mmseg_daft.cli import main
from mmseg_daft.engine.checkpoints import pretrained_model
from mmseg_daft.engine.convert_model import RECORD

LITE = 'ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py'


@pytest.fixture
def trained(voc_root, tmp_path):
    """DeepLabv3+ of the paper's architecture, converted and trained by DAFT's config."""
    cfg = small(DAFT_VOC, tmp_path / 'run', voc_root)
    write_start(cfg, tmp_path)
    train(cfg)
    return cfg, tmp_path / 'run' / 'iter_2.pth'


@pytest.fixture
def converted(shapes_root, tmp_path):
    """EfficientNet-Lite0 of timm with its real weights, converted by the command."""
    init_default_scope('mmseg')
    cfg = small(LITE, tmp_path / 'run', shapes_root)
    torch.save(dict(state_dict=pretrained_model(cfg, None).state_dict()), tmp_path / 'source.pth')
    cfg.dump(tmp_path / 'config.py')
    assert main(['convert', *(str(tmp_path / name) for name in ('config.py', 'source.pth', 'converted.pth'))]) == 0
    return cfg, tmp_path / 'converted.pth'


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['trained', 'converted'])
def test_exported_to_onnx_it_computes_the_same(kind, request, tmp_path):
    cfg, checkpoint = request.getfixturevalue(kind)
    content = torch.load(checkpoint)
    assert RECORD in content['meta'] or RECORD in content['message_hub']['runtime_info']
    model = init_model(cfg, str(checkpoint), device='cpu')
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 96)
    # Without options: torch.export's exporter where it is the default, since torch 2.9; TorchScript's before.
    torch.onnx.export(model, (images,), str(tmp_path / 'model.onnx'))
    onnx.checker.check_model(str(tmp_path / 'model.onnx'))
    assert {opset.domain for opset in onnx.load(tmp_path / 'model.onnx').opset_import} <= {'', 'ai.onnx'}
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    output, = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    assert output.shape == expected.shape and expected.std() > 1e-3
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def tiny_daft(tmp_path, root, compiler):
    """DAFT with the stem and the first stage of a ResNet-18, as compilers take seconds for every layer."""
    cfg = small(SMALL / 'daft.py', tmp_path / str(compiler), root, iters=4)
    cfg.model.backbone.update(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    cfg.model.decode_head = dict(
        type='FCNHead', in_channels=4, in_index=0, channels=4, num_convs=1, concat_input=False, dropout_ratio=0,
        num_classes=6, norm_cfg=cfg.model.decode_head.norm_cfg, loss_decode=cfg.model.decode_head.loss_decode)
    cfg.optim_wrapper.paramwise_cfg.update(backbone_lr=0.01, head_lr=0.1)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if compiler:
        cfg.compile = dict(backend=compiler)
    write_start(cfg, tmp_path)
    return cfg


@pytest.mark.slow
def test_a_compiled_training_step_trains_the_same(shapes_root, tmp_path):
    """By all of ``torch.compile`` but machine code, which takes minutes: graphs whose outputs are the statistics."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    histories = []
    for kind in (None, 'aot_eager'):
        states = []
        runner = train(tiny_daft(tmp_path, shapes_root, kind), lambda runner, batch, states=states: states.append(
            {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}))
        assert runner.message_hub.get_info(RECORD)
        histories.append([*states, runner.model.state_dict()])
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 1
    start, end = histories[0][0], histories[0][-1]
    assert all(torch.equal(start[name], tensor) for name, tensor in histories[1][0].items())  # converted, not trained
    assert not torch.equal(start['backbone.conv1.weight'], end['backbone.conv1.weight'])
    for plain, compiled in zip(*histories):
        assert plain.keys() == compiled.keys()
        for name, tensor in plain.items():
            torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
