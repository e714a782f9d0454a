"""The door for any PyTorch model: it converts, or it says why not and leaves the model as it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.networks import Network, pretrained
from support.ranks import on_ranks
from torch import nn

from mmseg_daft.core import ConversionVariant, Ranks, StopRule, convert_batch_norm, parameter_groups
from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import convert
from mmseg_daft.core.ranks import current_ranks
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics

ROOT = Path(__file__).parents[2]


def setting(count=4):
    torch.manual_seed(0)
    return pretrained(Network(2, depth=3)), [torch.randn(3, 5, 6, 6) * 2 + 1 for _ in range(count)]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_is_the_pass_and_the_conversion():
    model, batches = setting()
    twin, _ = setting()
    layers = find_batch_norms(twin, ('',))
    convert(layers, collect_statistics(twin, layers, batches, twin))
    model.train()
    inputs = torch.randn(2, 5, 6, 6)
    with torch.no_grad():
        before = model.eval()(inputs)
    model.train()
    report = convert_batch_norm(model, batches)
    assert model.training and same(state(model), state(twin))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(inputs), before, rtol=1e-4, atol=1e-5)
    assert report.output_change < 1e-4 and list(report.statistics) == list(layers) and not report.left
    assert '3 layers found, 3 converted, 0 left as they are; eval-mode output changed by' in report.summary()


def test_the_report_undoes_it():
    model, batches = setting()
    before = state(model)
    report = convert_batch_norm(model, batches)
    assert not same(before, state(model))
    report.undo(model)
    assert same(before, state(model))


@pytest.mark.parametrize('wrap', [tuple, list])
def test_a_loader_of_pairs_and_a_forward_of_ones_own(wrap):
    results = []
    for batches, options in (
            (lambda b: b, {}), (lambda b: [wrap((x, torch.zeros(3))) for x in b], {}),
            (lambda b: [{'image': x} for x in b], 'own')):
        model, data = setting()
        options = {'forward': lambda batch, model=model: {'out': [model(batch['image'])]}} if options else {}
        convert_batch_norm(model, batches(data), **options)
        results.append(state(model))
    assert same(results[0], results[1]) and same(results[0], results[2])
    model, data = setting()
    with pytest.raises(ValueError, match=r'A mini-batch is a dict, not a tensor.*forward=lambda batch: model'):
        convert_batch_norm(model, [{'image': x} for x in data])


@pytest.mark.skipif(not hasattr(torch.compiler, 'set_stance'), reason='torch < 2.6 refuses what was called before')
@pytest.mark.parametrize('compiled', [
    lambda model: torch.compile(model, backend='aot_eager'),
    lambda model: model.compile(backend='aot_eager'),
    lambda model: model[0].compile(backend='aot_eager')], ids=['whole', 'whole, in place', 'backbone, in place'])
def test_a_compiled_model_is_converted_as_it_is_without_a_compiler(compiled):
    """It was called before: its graphs know nothing of the hooks that observe its layers."""
    torch._dynamo.reset()
    network, batches = setting(2)
    twin, _ = setting()
    model = nn.Sequential(network, nn.Conv2d(5, 2, 1))
    model = compiled(model) or model
    with torch.no_grad():
        model.eval()(batches[0])
    report = convert_batch_norm(model, batches, '0')
    expected = convert_batch_norm(twin, batches)
    assert list(report.source) == [f'0.{name}' for name in expected.source]
    assert same(state(twin), state(network))
    groups = parameter_groups(model, {'backbone': ['0'], 'head': ['1']}, {'backbone': 0.1, 'head': 1})
    assert [len(group['params']) for group in groups] == [12, 2]


def test_known_statistics_need_one_mini_batch():
    model, batches = setting()
    twin, _ = setting()
    report = convert_batch_norm(twin, batches)
    rest = iter(batches)
    convert_batch_norm(model, rest, statistics=report.statistics)
    assert same(state(model), state(twin)) and len(list(rest)) == 3


def test_variant_and_stop_rule_pass_through():
    model, batches = setting(40)
    report = convert_batch_norm(model, batches, stop=StopRule(10, 2), variant=ConversionVariant(var=False))
    assert {s.num_batches for s in report.statistics.values()} == {2}
    adapted, batches = setting()
    assert convert_batch_norm(adapted, batches, variant=ConversionVariant(compensate=False)).output_change > 1e-2


class Odd(nn.Module):
    """Uses its batch norm's tensors in another way than batch norm does."""

    def __init__(self):
        super().__init__()
        self.norm = pretrained(nn.Sequential(nn.BatchNorm2d(5)))[0]

    def forward(self, x):
        return self.norm(x) + self.norm.running_mean.sum()


def unreached():
    model, batches = setting()
    model.unused = pretrained(nn.Sequential(nn.BatchNorm2d(3)))
    return model, batches


def untrained():
    return Network(2, depth=3), setting()[1]


def with_nan():
    model, batches = setting()
    batches[2][0, 0, 0, 0] = float('nan')
    return model, batches


def shared():
    model, batches = setting()
    model.norms[1].weight = model.norms[0].weight
    return model, batches


def shared_with_what_is_not_converted():
    model, batches = setting()
    outer = nn.Sequential(model, pretrained(nn.Sequential(nn.BatchNorm2d(5))))
    outer[1][0].bias = model.norms[2].bias
    return outer, batches, {'modules': '0'}


def without_output():
    model, batches = setting()

    def run(batch):
        model(batch)

    return model, batches, {'forward': run}


def random_forward():
    model, batches = setting()
    return model, batches, {'forward': lambda batch: model(batch) * torch.rand(1)}


def other_statistics(names=('norms.0', 'norms.1', 'norms.2'), channels=5):
    model, batches = setting()
    ones = torch.ones(channels, dtype=torch.float64)
    return model, batches, {'statistics': {name: LayerStatistics(ones, ones, 1) for name in names}}


@pytest.mark.parametrize('make, kind, message', [
    (lambda: (setting()[0], []), ValueError, 'there are no data'),
    (shared_with_what_is_not_converted, ValueError, r"'0.norms.2' and '1.0' share a tensor, and the second is not"),
    (without_output, ValueError, 'returned no floating-point tensor'),
    (random_forward, RuntimeError, 'also differs without any conversion'),
    (lambda: other_statistics(['norms.0']), ValueError, r"no statistics of the batch-norm layers \['norms.1'"),
    (lambda: other_statistics(channels=3), ValueError, "'norms.0': it has 5 channels, its statistics 3"),
    (lambda: (other_statistics()[0], [], other_statistics()[2]), ValueError, 'no mini-batch to check'),
    (lambda: (nn.DataParallel(setting()[0]), setting()[1]), ValueError, 'wrapped by DataParallel: pass model.module'),
    (unreached, ValueError, r"1 of 4 batch-norm layers were never reached.*'unused.0'"),
    (untrained, ValueError, '3 of 3 batch-norm layers have the statistics of an untrained layer'),
    (with_nan, ValueError, r"'norms.0' are NaN or infinite"),
    (shared, ValueError, r"'norms.0' and 'norms.1' share a tensor"),
    (lambda: (Odd(), setting()[1]), RuntimeError, r'changed the eval-mode output by .*so it was undone'),
    (lambda: (nn.Sequential(nn.BatchNorm2d(5, affine=False)), setting()[1]), ValueError, 'can be converted'),
], ids=['empty', 'shared outside', 'no output', 'random', 'statistics missing', 'other shape', 'nothing to check on',
        'wrapped', 'unreached', 'untrained', 'NaN', 'shared', 'odd', 'not affine'])
def test_what_cannot_be_right_is_refused_and_the_model_is_as_it_was(make, kind, message):
    model, batches, *options = make()
    model.train()
    before = state(model)
    with pytest.raises(kind, match=message):
        convert_batch_norm(model, batches, **dict(*options))
    assert same(before, state(model)) and model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_untrained_layers_convert_when_asked_to():
    model, batches = untrained()
    assert convert_batch_norm(model, batches, allow_untrained=True).output_change < 1e-4


def convert_on_ranks(rank, world_size, count):
    model, batches = setting(count)
    report = convert_batch_norm(model, batches[rank::world_size], ranks=Ranks(torch.device('cpu')))
    return state(model), report.output_change


def convert_nothing_on_ranks(rank, world_size):
    return convert_on_ranks(rank, world_size, 0)


def test_no_data_on_any_rank_is_said_on_all(tmp_path):
    assert all('there are no data' in str(error) for error in on_ranks(2, convert_nothing_on_ranks, tmp_path / 'ranks'))


def convert_untrained_on_one(rank, world_size):
    model, batches = setting()
    if rank == 1:
        model.norms[0].reset_running_stats()
    convert_batch_norm(model, batches, ranks=Ranks(torch.device('cpu')))


def test_what_one_rank_refuses_ends_all(tmp_path):
    errors = on_ranks(2, convert_untrained_on_one, tmp_path / 'ranks')
    assert 'Rank 1 failed, so all ranks stop' in str(errors[0]) and 'untrained layer' in str(errors[1])


@pytest.mark.parametrize('count', [4, 1], ids=['even', 'a rank without data'])
def test_ranks_end_with_one_model(count, tmp_path):
    model, batches = setting(count)
    convert_batch_norm(model, batches, ranks=current_ranks(torch.device('cpu')))
    for got, change in on_ranks(2, convert_on_ranks, tmp_path / 'ranks', count):
        assert same(got, state(model)) and 0 < change < 1e-4


PURE = '''
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmengine', 'mmseg', 'mmcv', 'rich', 'torchvision'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ('mmengine', 'mmseg') else found(name, *a)
from mmseg_daft.core import convert_batch_norm, parameter_groups
import torch
model = torch.nn.ModuleDict(dict(backbone=torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)),
                                 head=torch.nn.Conv2d(4, 2, 1)))
model.backbone[1].running_mean += 0.5
report = convert_batch_norm(model, [torch.randn(4, 3, 8, 8)], modules=('backbone',), forward=model.backbone)
groups = parameter_groups(model, {'backbone': ['backbone'], 'head': ['head']}, {'backbone': 0.01, 'head': 0.1})
torch.optim.SGD(groups, lr=0.1)
print(report.summary(), [group['name'] for group in groups])
print([name for name in sys.modules if name.split('.')[0] in ('mmengine', 'mmseg', 'mmcv', 'rich', 'torchvision')])
'''


def test_core_works_in_a_process_that_has_torch_and_nothing_else_of_ours():
    done = subprocess.run([sys.executable, '-c', PURE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said, imported = done.stdout.splitlines()
    assert "1 layers found, 1 converted" in said and "['backbone', 'head']" in said and imported == '[]'


BROKEN = '''
import sys, types, warnings
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmcv':
            raise ImportError('mmcv was built for another torch')
sys.meta_path.insert(0, Broken())
if 'first' in sys.argv:
    import mmengine
from mmseg_daft.core import convert_batch_norm
print('core works')
'''


@pytest.mark.slow
def test_core_works_beside_a_broken_stack_and_a_config_gets_the_error():
    alone, config = (subprocess.run([sys.executable, '-c', BROKEN, *words], capture_output=True, text=True, cwd=ROOT)
                     for words in ([], ['first']))
    assert alone.stdout == 'core works\n' and 'mmcv was built for another torch' in alone.stderr
    assert 'mmseg-daft doctor' in alone.stderr
    assert config.returncode != 0 and 'mmcv was built for another torch' in config.stderr
