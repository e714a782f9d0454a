"""Each method through a history: start, iterations, validation, more iterations, resume.

What moved, what did not, what the optimizer holds, and each batch norm's mode: MMEngine and mmseg switch modes
around validation and set them again on resume.
"""

from dataclasses import dataclass

import pytest
import torch
from support.pretrained_files import write_start
from support.small_runs import SMALL, small, train

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.engine.convert_model import RECORD

VALIDATION = 2


@dataclass
class Method:
    """What a method is, after Tables 1 and 5 of the paper."""

    name: str
    backbone_trains: bool
    eval_mode: str | None  # prefix of the batch norms that stay in eval mode
    converted: bool
    one_rate: bool


METHODS = [
    Method('lp', False, 'backbone.', False, False),
    Method('ft', True, None, False, True),
    Method('lpft', True, '', False, True),
    Method('daft', True, None, True, False),
    Method('ft-conversion', True, None, True, True),
    Method('lpft-conversion', True, None, True, True),
    Method('integrated-lpft', True, 'backbone.', False, False),
    Method('two-rates', True, None, False, False)]


class History:
    """The model before each iteration."""

    def __init__(self):
        self.states, self.modes, self.groups = [], [], []

    def __call__(self, runner, batch):
        model = runner.model
        self.states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        self.modes.append({
            name: layer.training for name, layer in model.named_modules() if isinstance(layer, BatchNorm)})
        self.groups.append({group['name']: (len(group['params']), group['initial_lr'])
                            for group in runner.optim_wrapper.optimizer.param_groups})


@pytest.mark.parametrize('method', [
    method if method.name == 'daft' else pytest.param(method, marks=pytest.mark.slow) for method in METHODS
], ids=lambda method: method.name)
def test_method(method, shapes_root, tmp_path):
    def make(iters):
        cfg = small(SMALL / f'{method.name}.py', tmp_path / 'run', shapes_root, iters, **{
            'train_cfg.val_interval': VALIDATION, 'default_hooks.checkpoint.interval': 4})
        write_start(cfg, tmp_path)
        for rate in ('backbone_lr', 'head_lr'):  # steps that show in float32
            cfg.optim_wrapper.paramwise_cfg[rate] = max(cfg.optim_wrapper.paramwise_cfg[rate], 0.05 * (
                method.backbone_trains or rate == 'head_lr'))
        if not method.one_rate and method.backbone_trains:
            cfg.optim_wrapper.paramwise_cfg.head_lr = 0.5
        return cfg

    history = History()
    runner = train(make(4), history)
    end = runner.model.state_dict()
    resumed_cfg = make(6)
    resumed_cfg.resume = True
    resumed = History()
    continued = train(resumed_cfg, resumed)
    assert (len(history.states), len(resumed.states)) == (4, 2)

    # Resumed where it stopped: nothing set up, converted or initialised once more.
    assert all(torch.equal(resumed.states[0][name], tensor) for name, tensor in end.items())

    # Each batch norm's mode: at the start, after validation, after the resume.
    for modes in (*history.modes, *resumed.modes):
        for name, training in modes.items():
            in_eval_mode = method.eval_mode is not None and name.startswith(method.eval_mode)
            assert training != in_eval_mode, name

    # What moved.
    start, later = history.states[0], resumed.states[-1]
    parameters = dict(continued.model.named_parameters())
    for name, before in start.items():
        part_trains = method.backbone_trains or not name.startswith('backbone.')
        if name in parameters:
            assert torch.equal(before, later[name]) != part_trains, name
        else:  # running statistics and their counters
            in_eval_mode = method.eval_mode is not None and name.startswith(method.eval_mode)
            assert torch.equal(before, later[name]) == in_eval_mode, name

    # What the optimizer holds.
    count = {'backbone': sum(name.startswith('backbone.') for name in parameters),
             'head': sum(not name.startswith('backbone.') for name in parameters)}
    parts = ('backbone', 'head') if method.backbone_trains else ('head',)
    for groups in (*history.groups, *resumed.groups):
        assert {name: number for name, (number, _) in groups.items()} == {part: count[part] for part in parts}
        rates = {rate for _, rate in groups.values()}
        assert len(rates) == (1 if method.one_rate or not method.backbone_trains else 2)
    momenta = continued.optim_wrapper.optimizer.state
    assert {id(p) for p in momenta} == {
        id(p) for name, p in parameters.items() if method.backbone_trains or not name.startswith('backbone.')}
    assert all(p.requires_grad == (method.backbone_trains or not name.startswith('backbone.'))
               for name, p in parameters.items())

    # The start: the file's weights, but for a conversion.
    file = torch.load(write_start(make(4), tmp_path))['state_dict']
    assert method.converted == (continued.message_hub.get_info(RECORD) is not None)
    from_head = method.name.startswith('lpft')
    assert any(name.startswith('decode_head.project') for name in file) == from_head
    for name, tensor in file.items():
        if name.startswith('backbone.') or from_head:
            kind = name.split('.')[-1]
            layer = dict(continued.model.named_modules())[name.rsplit('.', 1)[0]]
            rewritten = method.converted and isinstance(layer, BatchNorm) and name.startswith('backbone.')
            if kind != 'num_batches_tracked':
                assert torch.equal(start[name], tensor) != rewritten, name


def test_linear_probing_stores_no_activations_of_the_backbone(shapes_root, tmp_path):
    """The memory that freezing saves: what autograd keeps of a training forward."""
    saved = {}
    for method in ('lp', 'ft'):
        cfg = small(SMALL / f'{method}.py', tmp_path / method, shapes_root, 1)
        write_start(cfg, tmp_path)

        def look(runner, batch, method=method):
            tensors = {}
            own = {p.untyped_storage().data_ptr() for p in runner.model.parameters()}

            def pack(tensor):
                tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                features = runner.model.extract_feat(runner.model.data_preprocessor(batch, True)['inputs'])
            saved[method] = sum(size for place, size in tensors.items() if place not in own)
            assert all(f.requires_grad == (method == 'ft') for f in features)

        train(cfg, look)
    assert saved['lp'] == 0 < saved['ft']


def test_a_linear_heads_backbone_gets_no_gradient_in_iteration_0(camvid_layout, tmp_path):
    name = 'daft/daft_linear_r18-day_b8-200_camvid-dusk-160x160.py'
    cfg = small(name, tmp_path / 'run', camvid_layout, 3)
    cfg.optim_wrapper.optimizer.weight_decay = 0  # its pull is no gradient
    write_start(cfg, tmp_path)
    history = History()
    train(cfg, history)
    first, second, third = history.states
    assert first['decode_head.conv_seg.weight'].abs().max() == 0 == first['decode_head.conv_seg.bias'].abs().max()
    for parameter in first:
        if 'running' not in parameter and 'tracked' not in parameter:
            head = not parameter.startswith('backbone.')
            assert torch.equal(first[parameter], second[parameter]) != head, parameter
            assert not torch.equal(second[parameter], third[parameter]), parameter
