"""Statistics kept in files: used when everything agrees that they depend on, and never otherwise."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from support.data_layouts import write_camvid
from support.pretrained_files import write_start
from support.small_runs import small, train
from support.training_process import TrainingProcess
from torchvision.transforms import InterpolationMode

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.statistics import LayerStatistics
from mmseg_daft.engine.convert_model import PassSettings
from mmseg_daft.engine.statistics_file import (
    StoredPass,
    describe,
    digest,
    pass_fingerprint,
    read_statistics,
    write_statistics,
)
from mmseg_daft.engine.training_data import ModelForward

DAFT = 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'


@pytest.fixture
def make(tmp_path):
    """Make a config of a small run; all runs of a test share data, start and folder of statistics."""
    write_camvid(tmp_path / 'data')

    def config(name='run', iters=2, cache=True, data='data', **options):
        cfg = small(DAFT, tmp_path / name, tmp_path / data, iters)
        write_start(cfg, tmp_path)
        cfg.custom_hooks = [dict(type='BNConversionHook')]
        if cache:
            cfg.custom_hooks[0].update(cache_dir=str(tmp_path / 'statistics'))
        cfg.merge_from_dict(options)
        return cfg

    return config


def log_of(runner):
    return next(Path(runner._log_dir).glob('*.log')).read_text()


def state(runner):
    return {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(tmp_path):
    return sorted((tmp_path / 'statistics').glob('*'))


@pytest.mark.parametrize('workers', [0, 2])
def test_a_hit_changes_nothing_to_the_bit(make, tmp_path, workers):
    """Neither the conversion nor the training after it: weights, data and random numbers."""
    options = {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0,
               'model.decode_head.dropout_ratio': 0.5, 'iters': 3}
    starts = []

    def run(name, cache):
        seen = []
        runner = train(make(name, cache=cache, **options), lambda runner, batch: seen.append(state(runner)))
        starts.append(seen[0])
        return runner

    runners = [run('without', False), run('first', True), run('second', True)]
    assert 'there are none in' in log_of(runners[1]) and 'BN statistics: written to' in log_of(runners[1])
    assert 'BN statistics: read from' in log_of(runners[2]) and 'BN statistics' not in log_of(runners[0])
    assert len(files(tmp_path)) == 1
    for start, runner in zip(starts[1:], runners[1:]):
        assert equal(starts[0], start) and equal(state(runners[0]), state(runner))
    records = [runner.message_hub.get_info('bn_conversion') for runner in runners]
    for record in records:
        for timing in ('seconds', 'pass_seconds', 'waited'):
            record.pop(timing)
    assert records[0] == records[1] == records[2]


def fingerprint(cfg, settings=None, modules=('backbone',)):
    torch.manual_seed(0)
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    layers = find_batch_norms(runner.model, modules)
    loader = runner.build_dataloader(cfg.train_dataloader, seed=0)
    return pass_fingerprint(ModelForward(runner.model, layers), layers, loader, settings or PassSettings(),
                            lambda: torch.autocast('cpu', torch.bfloat16, enabled=bool(cfg.get('low'))))


def differences(a, b):
    return [part for part in a if a[part] != b[part]]


def test_whatever_the_statistics_depend_on_is_in_the_fingerprint(make, tmp_path):
    base = fingerprint(make())
    assert fingerprint(make('again')) == base

    def changed(settings=None, modules=('backbone',), **options):
        return differences(base, fingerprint(make('changed', **options), settings, modules))

    assert changed(low=True) == ['precision']
    assert changed(**{'model.data_preprocessor.std': [50.0, 50.0, 50.0]}) == ['preprocessing']
    assert changed(**{'model.backbone.dilations': (1, 1, 1, 4)}) == ['architecture']
    assert changed(settings=PassSettings(seed=1)) == ['seed']
    assert changed(settings=PassSettings(num_batches=1)) == ['pass']
    assert changed(settings=PassSettings(by_batch=True)) == ['pass']
    assert changed(**{'train_dataloader.batch_size': 2}) == ['pass']
    assert changed(modules=('backbone.layer4',)) == ['layers']
    assert changed(**{'train_dataloader.dataset.pipeline.4.prob': 0.6}) == ['pipeline']
    assert changed(**{'train_dataloader.dataset.indices': 3}) == ['pipeline', 'data']
    assert changed(**{'train_dataloader.dataset.data_prefix.img_path': 'images/val',
                      'train_dataloader.dataset.data_prefix.seg_map_path': 'labels/val'}) == ['data']
    once = make('wrapped').train_dataloader.dataset
    cfg = make('wrapped')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=once, times=2)
    assert differences(base, fingerprint(cfg)) == ['pipeline']

    start = torch.load(make().model.backbone.init_cfg.checkpoint)
    start['state_dict']['backbone.layer1.0.conv1.weight'][0, 0, 0, 0] += 1e-6
    torch.save(start, tmp_path / 'other.pth')
    assert changed(**{'model.backbone.init_cfg.checkpoint': str(tmp_path / 'other.pth')}) == ['weights']


@pytest.mark.parametrize('kind', ['images', 'labels'])
def test_a_changed_file_is_seen_and_a_copied_data_set_is_not(make, tmp_path, kind):
    base = fingerprint(make())
    shutil.copytree(tmp_path / 'data', tmp_path / 'mounted elsewhere')  # keeps the times
    assert fingerprint(make('other', data='mounted elsewhere')) == base
    file = next((tmp_path / 'data' / 'dusk' / kind / 'train').iterdir())
    times = file.stat()
    file.write_bytes(file.read_bytes())  # as large as before, and with the same content
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert differences(base, fingerprint(make())) == ['data']


def test_the_decoder_and_the_way_the_weights_came_do_not_matter(make, tmp_path):
    base = fingerprint(make())
    elsewhere = shutil.copy(make().model.backbone.init_cfg.checkpoint, tmp_path / 'copied.pth')
    assert fingerprint(make(**{'model.decode_head.dropout_ratio': 0.9, 'optim_wrapper.paramwise_cfg.head_lr': 3.0,
                               'model.backbone.init_cfg.checkpoint': str(elsewhere),
                               'train_dataloader.num_workers': 1})) == base


def test_a_miss_is_explained(make):
    train(make('first'))
    text = log_of(train(make('second', randomness=dict(seed=1, deterministic=True))))
    assert 'none of the 1 in' in text and 'the nearest differs in: seed (it shuffles' in text
    assert 'with randomness=dict(seed=...) in the config all runs have the same' in text


@pytest.mark.parametrize('harm', ['cut off', 'a bit', 'not a file of its kind', 'of other layers'])
def test_a_damaged_file_is_told_and_replaced(make, tmp_path, harm):
    first = train(make('first', iters=1))
    path, = files(tmp_path)
    good = path.read_bytes()
    if harm == 'of other layers':
        write_statistics(path, StoredPass({'a': LayerStatistics(torch.zeros(1), torch.ones(1), 1)}, 1, 1, 1), {})
    else:
        path.write_bytes({'cut off': good[:-10], 'a bit': good[:-1] + bytes([good[-1] ^ 1]),
                          'not a file of its kind': b'nonsense'}[harm])
    second = train(make('second', iters=1))
    assert 'is damaged' in log_of(second) and 'computed anew' in log_of(second)
    assert equal(state(first), state(second))
    third = train(make('third', iters=1))
    assert 'BN statistics: read from' in log_of(third) and equal(state(first), state(third))


def test_data_that_are_no_files_are_told_and_the_run_goes_on(make, tmp_path):
    (tmp_path / 'statistics').write_text('a file where the folder should be')
    text = log_of(train(make(iters=1)))
    assert 'BN statistics: not ' in text and '20 converted' in text


def write_once(path, value):
    statistics = LayerStatistics(torch.full((100_000,), value, dtype=torch.float64), torch.ones(3), int(value))
    write_statistics(path, StoredPass({'layer': statistics}, int(value), 9, 1), {'writer': str(value)})


def write_until(enough, path, value):
    while not enough.is_set():
        write_once(path, value)


def test_jobs_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / 'file.safetensors'
    write_once(path, 1.0)
    context = multiprocessing.get_context('fork')
    enough = context.Event()
    writers = [context.Process(target=write_until, args=(enough, path, float(i)), daemon=True) for i in (1, 2, 3)]
    for writer in writers:
        writer.start()
    seen, reads, deadline = set(), 0, time.monotonic() + 600
    while len(seen) < 3 or reads < 50:
        assert time.monotonic() < deadline
        stored = read_statistics(path)  # raises where a file is not whole
        assert (stored.statistics['layer'].mean == stored.num_batches).all()
        seen.add(stored.num_batches)
        reads += 1
    enough.set()
    for writer in writers:
        writer.join()
    assert all(writer.exitcode == 0 for writer in writers)
    assert [file.name for file in tmp_path.iterdir()] == ['file.safetensors']


def test_two_ranks_hold_the_same_with_and_without_a_file_and_if_it_cannot_be_read(make, tmp_path):
    cfg = make(iters=1)
    cfg.custom_imports = dict(imports=['mmseg_daft', 'training_events'])
    cfg.custom_hooks.append(dict(type='RankDigestHook'))
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'run.py')
    digests = []
    for name in ('first', 'second', 'damaged'):
        if name == 'damaged':
            files(tmp_path)[0].write_bytes(b'nonsense')
        run = tmp_path / name
        process = TrainingProcess([tmp_path / 'run.py', '--work-dir', run, '--launcher', 'pytorch'], run, ranks=2)
        process.finish()
        said = {'first': 'written to', 'second': 'read from', 'damaged': 'is damaged'}[name]
        assert f'BN statistics: {said}' in process.log.read_text() or said in process.log.read_text()
        digests += [(run / f'digest.{rank}').read_text() for rank in range(2)]
    assert len(digests) == 6 and len(set(digests)) == 1


def test_descriptions_hold_no_address_and_tell_objects_apart():
    class Thing:
        def __init__(self, value):
            self.value, self.function = value, len

    assert describe(Thing([1, {'a': torch.ones(2)}])) == describe(Thing([1, {'a': torch.ones(2)}]))
    assert describe(Thing(torch.ones(2))) != describe(Thing(torch.ones(3)))
    assert describe(Thing(1)) != describe(Thing(1.0))
    assert ' at 0x' not in describe([Thing(Thing(object())), lambda: 0, Thing(1).__init__])
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match='nested too deep'):
        describe(endless)


@dataclass(slots=True)
class Slotted:
    value: int


def scaled_by(factor):
    return lambda image: image * factor


def with_default(factor):
    def scale(image, factor=factor):
        return image * factor
    return scale


@pytest.mark.parametrize('make', [
    Slotted, scaled_by, with_default, range, lambda n: Path(str(n)), lambda n: re.compile(str(n)),
    lambda n: re.compile('a' * 300 + str(n)),
    lambda n: deque([n]), lambda n: partial(scaled_by(n)), lambda n: [len, max][n], lambda n: [np.exp, np.log][n],
    lambda n: [torch.float32, torch.float16][n], lambda n: [lambda x: x, lambda x: x + 1][n],
    lambda n: [lambda x: [x + 1 for _ in x], lambda x: [x + 2 for _ in x]][n],
    lambda n: list(InterpolationMode)[n], lambda n: [np, torch][n]])
def test_things_set_differently_are_told_apart_and_equal_ones_are_not(make):
    assert describe(make(0)) == describe(make(0)) != describe(make(1))


def test_what_does_not_show_its_content_is_refused(tmp_path):
    with pytest.raises(ValueError, match='Generator does not show what it holds'):
        describe({'rng': np.random.default_rng(0)})


def test_another_process_describes_the_same():
    code = ("import sys, mmseg_daft; sys.path.insert(0, 'tests/engine'); import test_statistics_cache as t; "
            "print(t.describe([t.scaled_by(2), t.Slotted(3), t.with_default(1), {'b', 'a'}]))")
    root = Path(__file__).parents[2]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), str(root / 'tests' / 'support')])}
    told = subprocess.run([sys.executable, '-c', code], cwd=root, env=env, capture_output=True, text=True, check=True)
    here = describe([scaled_by(2), Slotted(3), with_default(1), {'a', 'b'}])
    assert told.stdout.splitlines()[-1] == here


def test_one_digest_for_all_parts():
    assert digest(dict(a='1', b='2')) == digest(dict(b='2', a='1')) != digest(dict(a='1', b='3'))
