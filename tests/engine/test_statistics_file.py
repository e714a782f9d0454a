"""Statistics in a file: used by the pass that wrote them, refused by any other."""

import re

import pytest
import torch
from mmengine.runner import Runner
from support.data_layouts import write_camvid
from support.pretrained_files import write_start
from support.ranks import on_ranks
from support.small_runs import log_of, small, train

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.ranks import current_ranks
from mmseg_daft.core.statistics import LayerStatistics
from mmseg_daft.engine.statistics_file import pass_identity, read_statistics, write_statistics
from mmseg_daft.engine.training_data import ModelForward

DAFT = 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'


@pytest.fixture
def make(tmp_path):
    """Make a config of a small run; all runs of a test share data, start and file."""
    write_camvid(tmp_path / 'data')

    def config(name='run', iters=2, file='statistics.safetensors', **options):
        cfg = small(DAFT, tmp_path / name, tmp_path / 'data', iters)
        write_start(cfg, tmp_path)
        cfg.custom_hooks = [dict(type='BNConversionHook', **({'statistics': str(tmp_path / file)} if file else {}))]
        cfg.merge_from_dict(options)
        return cfg

    return config


def state(runner):
    return {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_a_file_changes_nothing_to_the_bit(make, tmp_path, workers):
    """Neither the conversion nor the training after it: weights, data and random numbers."""
    options = {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0,
               'model.decode_head.dropout_ratio': 0.5, 'iters': 3}
    starts = []

    def run(name, **more):
        seen = []
        runner = train(make(name, **options, **more), lambda runner, batch: seen.append(state(runner)))
        starts.append(seen[0])
        return runner

    runners = [run('without', file=None), run('first'), run('second')]
    assert 'statistics were in a file' not in log_of(runners[1]) and 'statistics were in a file' in log_of(runners[2])
    for start, runner in zip(starts[1:], runners[1:]):
        assert equal(starts[0], start) and equal(state(runners[0]), state(runner))
    records = [runner.message_hub.get_info('bn_conversion') for runner in runners]
    for record in records:
        for timing in ('seconds', 'pass_seconds', 'waited'):
            record.pop(timing)
    assert records[0] == records[1] == records[2]


def identity(cfg, modules=('backbone',), low=False, **settings):
    torch.manual_seed(0)
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    layers = find_batch_norms(runner.model, modules)
    return pass_identity(ModelForward(runner.model, layers), layers, dict(dict(seed=0, stop=None), **settings), cfg,
                         len(runner.build_dataloader(cfg.train_dataloader).dataset),
                         lambda: torch.autocast('cpu', torch.bfloat16, enabled=low))


@pytest.mark.slow
def test_whatever_the_statistics_depend_on_is_part_of_the_identity(make, tmp_path):
    base = identity(make())
    no_effect = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True,
                 'optim_wrapper.paramwise_cfg.backbone_lr': 0.5, 'model.decode_head.dropout_ratio': 0.5}
    assert identity(make('again', **no_effect)) == base

    def changed(modules=('backbone',), low=False, settings=(), **options):
        other = identity(make('changed', **options), modules, low, **dict(settings))
        return [part for part in base if base[part] != other[part]]

    assert changed(low=True) == ['precision']
    assert changed(settings={'seed': 1}) == ['seed']
    assert changed(modules=('backbone.layer4',)) == ['layers']
    assert changed(**{'model.data_preprocessor.std': [50.0, 50.0, 50.0]}) == ['model']
    assert changed(**{'model.backbone.dilations': (1, 1, 1, 4)}) == ['model']
    assert changed(**{'model.train_cfg': dict(augments=dict(type='Mixup', alpha=0.2))}) == ['model']
    beside = make('beside')  # as MMPretrain's bases have it
    beside.data_preprocessor = beside.model.pop('data_preprocessor')
    assert identity(beside) == base
    assert changed(**{'train_dataloader.batch_size': 2}) == ['train_dataloader']
    assert changed(**{'train_dataloader.dataset.pipeline.4.prob': 0.6}) == ['train_dataloader']
    assert changed(**{'train_dataloader.dataset.indices': 3}) == ['train_dataloader', 'num_images']
    start = torch.load(make().model.backbone.init_cfg.checkpoint)
    start['state_dict']['backbone.layer1.0.conv1.weight'][0, 0, 0, 0] += 1e-6
    torch.save(start, tmp_path / 'other.pth')
    assert changed(**{'model.backbone.init_cfg.checkpoint': str(tmp_path / 'other.pth')}) == ['weights']


def test_another_pass_is_refused_by_what_differs_before_training(make, tmp_path):
    train(make())
    before = (tmp_path / 'statistics.safetensors').read_bytes()
    with pytest.raises(ValueError, match=r'holds the statistics of another pass: it differs in num_batches, seed\. '
                                         'Name another file'):
        train(make('other', **{'randomness.seed': 1, 'custom_hooks.0.num_batches': 1}))
    assert (tmp_path / 'statistics.safetensors').read_bytes() == before


@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:len(b) // 2], lambda b: b'no safetensors at all'],
                         ids=['empty', 'half', 'other'])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / 'statistics.safetensors'
    statistics = {'a': LayerStatistics(torch.ones(3).double(), torch.ones(3).double(), 2)}
    write_statistics(path, statistics, dict(num_images=4), {'seed': '0'})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(f'{str(path)!r} is not a file of target statistics')):
        read_statistics(path, {'seed': '0'}, None)


def write_and_read(rank, world_size, path):
    ranks, identity = current_ranks(torch.device('cpu')), {'seed': '0'}
    assert read_statistics(path, identity, ranks) is None
    statistics = {'a': LayerStatistics(torch.arange(3).double(), torch.ones(3).double(), 2)}
    write_statistics(path, statistics, dict(num_images=4), identity)
    torch.distributed.barrier()
    stored = read_statistics(path, identity, ranks)
    try:
        read_statistics(path, {'seed': '1'}, ranks)
    except (ValueError, RuntimeError) as error:
        return stored.statistics['a'].mean, stored.facts, str(error)


def test_the_first_rank_reads_for_all_and_a_refusal_reaches_all(tmp_path):
    for mean, facts, error in on_ranks(2, write_and_read, tmp_path / 'ranks', tmp_path / 'statistics.safetensors'):
        assert mean.tolist() == [0, 1, 2] and facts == dict(num_images=4)
        assert 'it differs in seed' in error
