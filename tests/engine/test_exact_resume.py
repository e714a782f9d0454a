"""Runs that are killed at any moment and resumed: they end equal, to the bit, to one that nothing happened to."""

import copy
import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import support.training_events  # noqa: F401  registers CountSamples
import torch
from mmcv.transforms import BaseTransform
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import TRANSFORMS
from support import environment
from support.data_layouts import write_camvid
from support.pretrained_files import write_start
from support.small_runs import small, train
from support.training_process import TrainingProcess
from torch import Generator

from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.engine.convert_model import RECORD
from mmseg_daft.engine.hooks.exact_resume_hook import sample_stream

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DAFT = 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
ITERS, BATCH = 18, 4
HOOKS = [dict(type='BNConversionHook'), dict(type='ExactResumeHook')]


@TRANSFORMS.register_module()
class OwnGenerators(BaseTransform):
    """Noise, now and then, from generators that the transform keeps in a nested object, as albumentations does."""

    def __init__(self):
        self.children = [SimpleNamespace(generator=np.random.default_rng(), python=random.Random(), torch=Generator())]
        self.children[0].torch.seed()

    def transform(self, results):
        own = self.children[0]
        if own.python.random() < 0.3:
            noise = own.generator.normal(0, 20, results['img'].shape) + float(torch.rand(1, generator=own.torch))
            results['img'] = results['img'] + noise.astype(results['img'].dtype)
        return results


@TRANSFORMS.register_module()
class Unseeded(BaseTransform):
    """Brightness from the operating system's generator."""

    def transform(self, results):
        results['img'] = results['img'] + np.uint8(random.SystemRandom().randrange(20))
        return results


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp('camvid'), train=30, size=(60, 80))


@pytest.fixture
def make(data, tmp_path):
    """Make a config of a small run with everything that draws: dropout, augmentation, workers, validation."""

    def config(name='run', iters=ITERS, **options):
        cfg = small(DAFT, tmp_path / name, data, iters)
        write_start(cfg, tmp_path)
        cfg.custom_hooks = [dict(hook) for hook in HOOKS]
        cfg.model.decode_head.dropout_ratio = 0.5
        cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
        cfg.train_cfg.val_interval = 8
        cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=2, save_best='mIoU')
        cfg.merge_from_dict(options)
        return cfg

    return config


def content(value):
    """Yield all that a checkpoint holds as bytes."""
    if isinstance(value, torch.Tensor):
        yield value.numpy().tobytes()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key).encode()
            yield from content(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from content(item)
    else:
        yield repr(value).encode()


def digests(run, iters=ITERS, name='iter_18.pth'):
    """Hash the final weights, momentum, schedules, and the losses on the way."""
    checkpoint = torch.load(run / name)
    losses = {name: buffer._log_history for name, buffer in checkpoint['message_hub']['log_scalars'].items()
              if 'loss' in name or 'lr' in name}
    assert len(losses) >= 2 and all(len(history) == iters for history in losses.values())
    parts = dict(
        weights=checkpoint['state_dict'], optimizer=checkpoint['optimizer'], schedules=checkpoint['param_schedulers'],
        losses={name: history.tolist() for name, history in losses.items()},
        conversion={key: value for key, value in checkpoint['message_hub']['runtime_info'][RECORD].items()
                    if key not in ('seconds', 'pass_seconds', 'waited')})
    return {name: hashlib.sha256(b''.join(content(part))).hexdigest() for name, part in parts.items()}


def dump(cfg, path):
    cfg.pop('experiment_name', None)
    cfg.dump(path)
    return path


def with_events(cfg, path):
    """Write a config as a file, for processes, with hooks that tell where a run is."""
    cfg.custom_imports = dict(imports=['mmseg_daft', 'support.training_events'])
    cfg.custom_hooks += [dict(type='PassEventHook'), dict(type='EventsHook')]
    return dump(cfg, path)


@pytest.fixture
def command(make, tmp_path):
    return with_events(make(), tmp_path / 'run.py')


def undisturbed(config, run, **end):
    """Train by the command line, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(run)],
        capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return digests(run, **end)


def test_what_a_kill_left_half_noted_is_mended_without_the_hook_too(make, tmp_path):
    """MMEngine empties last_checkpoint before it writes it anew."""
    config, run = dump(make(iters=4, custom_hooks=HOOKS[:1]), tmp_path / 'run.py'), tmp_path / 'noted'
    words = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(run)]
    subprocess.run(words, check=True, capture_output=True, env=environment())
    (run / 'last_checkpoint').write_text('')
    (run / 'iter_4.pth').unlink()
    done = subprocess.run([*words, '--resume'], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'names nothing, which is missing or half-written; iter_2.pth is the last that is whole' in done.stdout
    assert 'resumed epoch: 0, iter: 2' in done.stdout + done.stderr and (run / 'iter_4.pth').is_file()


def moment(rng):
    """Draw a moment to kill at: an event since the start, which time it happens, and seconds after it."""
    kind = rng.choice(['pass', 'ready', 'iteration', 'save', 'validation'], p=[0.2, 0.1, 0.3, 0.3, 0.1])
    count = {'iteration': rng.integers(1, 8), 'save': rng.integers(1, 4)}.get(kind, 1)
    seconds = rng.uniform(0, {'pass': 0.3, 'ready': 0.05, 'iteration': 0.05, 'save': 0.02, 'validation': 0.1}[kind])
    return str(kind), int(count), float(seconds)


def killed_until_done(config, run, rng, kills, ranks=1, asks=False):
    """Start a run again and again, and end it each time, if it ``asks`` now and then by a signal; return when."""
    killed = []
    launcher = ['--launcher', 'pytorch'] if ranks > 1 else []
    while True:
        process = TrainingProcess([config, '--work-dir', run, '--resume', *launcher], run, ranks)
        if len(killed) < kills:
            kind, count, seconds = moment(rng)
            if process.wait_for(kind, count):
                time.sleep(seconds)
                if all(p.is_alive() for p in process.ranks):
                    if asks and rng.random() < 0.5:
                        process.ask(signal.SIGUSR1)
                        kind = f'asked: {kind}'
                    else:
                        process.kill(int(rng.integers(ranks)))
                    killed.append(kind)
                    continue
        process.finish()
        return killed


def killed_at_least(total, command, folder, expected, seed, end=None, **options):
    """Kill runs until so many processes have died; every run has to end as expected."""
    rng = np.random.default_rng(seed)
    killed = []
    for number in range(30):  # a run may end before it is killed
        run = folder / f'killed{number}'
        killed += killed_until_done(command, run, rng, min(8, total - len(killed)), **options)
        assert digests(run, **end or {}) == expected, killed
        if len(killed) >= total:
            return killed
    raise AssertionError(f'only {len(killed)} kills in 30 runs')


def test_killed_at_random_moments(command, tmp_path):
    killed = killed_at_least(20, command, tmp_path, undisturbed(command, tmp_path / 'whole'), seed=0)
    assert set(killed) >= {'pass', 'iteration', 'save'}


def test_killed_or_asked_to_stop_while_gradients_accumulate(command, tmp_path):
    """A better model is saved after each validation, and a checkpoint on the signal, with the whole state."""
    text = command.read_text()
    command.write_text(text + "optim_wrapper['accumulative_counts'] = 2\ntrain_cfg['val_interval'] = 4\n")
    killed = killed_at_least(8, command, tmp_path, undisturbed(command, tmp_path / 'whole'), seed=2, asks=True)
    assert any(kind.startswith('asked') for kind in killed) and {'iteration', 'save'} & {*killed}


def test_killed_or_asked_to_stop_in_a_loop_of_epochs(make, tmp_path):
    """Which goes on from an epoch's start: equal where nothing but the order of the samples is random."""
    cfg = make(**{
        'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1, _delete_=True),
        'train_dataloader': dict(num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler')),
        'param_scheduler.0': dict(end=3, by_epoch=True), 'default_hooks.checkpoint': dict(by_epoch=True, interval=1),
        'model.decode_head.dropout_ratio': 0, 'custom_hooks': [dict(type='BNConversionHook')]})
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [step for step in pipeline if not step['type'].startswith('Random')]
    cfg.model.data_preprocessor.size = (60, 80)
    config, end = with_events(cfg, tmp_path / 'run.py'), dict(iters=24, name='epoch_3.pth')
    killed = killed_at_least(
        5, config, tmp_path, undisturbed(config, tmp_path / 'whole', **end), seed=3, end=end, asks=True)
    assert any(kind.startswith('asked') for kind in killed) and {'iteration', 'save', 'validation'} & {*killed}


def test_any_of_two_ranks_killed(command, tmp_path):
    whole = tmp_path / 'whole'
    TrainingProcess([command, '--work-dir', whole, '--launcher', 'pytorch'], whole, ranks=2).finish()
    killed_at_least(5, command, tmp_path, digests(whole), seed=1, ranks=2)


def in_parts(make, name, at=3, iters=6, then=(), **options):
    """Train up to an iteration, resume, and return the digests at the end and the resumed runner."""
    options = {'default_hooks.checkpoint.interval': 3, 'train_cfg.val_interval': iters, **options}
    train(make(name, at, **options))
    cfg = make(name, iters, **options)
    cfg.merge_from_dict(dict(then))
    cfg.param_scheduler[0]['end'] = max(at, 10)  # both parts are of one schedule
    cfg.resume = True
    return train(cfg)


def weights(runner):
    return {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_with_another_number_of_workers(make, workers):
    whole = weights(train(make('whole', 6, **{'train_cfg.val_interval': 6})))
    then = {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0}
    assert equal(whole, weights(in_parts(make, 'parts', then=then)))


def test_without_the_hook_a_resumed_run_is_another(make):
    plain = {'custom_hooks': HOOKS[:1]}
    assert not equal(weights(train(make('plain', 6, **plain))), weights(in_parts(make, 'plain parts', **plain)))


def test_a_run_without_a_seed_goes_on_with_its_own(make):
    """The sampler draws a seed at each start; the order of samples is that of the first."""
    free = {'randomness': dict(seed=None, deterministic=True)}
    options = {'default_hooks.checkpoint.interval': 3, 'train_cfg.val_interval': 6, **free}
    parts = in_parts(make, 'parts', **options)
    seed = torch.load(f'{parts.work_dir}/iter_3.pth')['message_hub']['runtime_info']['exact_resume']['seed']
    assert parts.message_hub.get_info('exact_resume')['seed'] == seed


def test_epochs_without_a_seed_go_on_in_the_order_of_the_first_start(make, monkeypatch):
    """Resumed in the midst of an epoch: together the parts see each of its images once."""
    cfg, seen = make(**{
        'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1, _delete_=True),
        'train_dataloader': dict(num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler')),
        'param_scheduler.0': dict(end=3, by_epoch=True), 'randomness': dict(seed=None, deterministic=True),
        'default_hooks.checkpoint': dict(by_epoch=False, interval=3), 'custom_hooks': HOOKS}), []

    def look(runner, batch):
        if runner.iter == 3 and not runner._resume:
            raise InterruptedError
        seen.extend(sample.img_path for sample in batch['data_samples'])

    with pytest.raises(InterruptedError):
        train(copy.deepcopy(cfg), look)
    cfg.resume = True
    train(cfg, look)
    assert len({*seen}) == len(seen) == 30


def pipelines(cfg, path):
    """Train and return how many samples went through the pipeline."""
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='CountSamples', path=str(path)))
    train(cfg)
    return len(path.read_text().splitlines())


@pytest.mark.parametrize('workers', [0, 2])
def test_what_was_seen_is_not_run_again(make, tmp_path, workers):
    options = {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0,
               'default_hooks.checkpoint.interval': 20, 'train_cfg.val_interval': 22}
    train(make('run', 20, **options))
    cfg = make('run', 22, **options)
    cfg.resume = True
    prefetched = 2 * workers * 2  # MMEngine's own loader, before any hook runs, and ours past the last iteration
    count = pipelines(cfg, tmp_path / 'samples')
    assert 2 * BATCH <= count <= (2 + prefetched) * BATCH < 20 * BATCH
    if not workers:
        assert count == 2 * BATCH


def test_the_order_of_samples_is_that_without_the_hook(make):
    orders = []
    for name, hooks in (('with', HOOKS), ('without', HOOKS[:1])):
        paths = []
        cfg = make(name, 10, custom_hooks=hooks)
        train(cfg, lambda runner, batch, paths=paths: paths.append([s.img_path for s in batch['data_samples']]))
        orders.append(paths)
    assert orders[0] == orders[1] and len(orders[0]) == 10


def test_a_stream_starts_anywhere(make):
    cfg = make(**{'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False})
    loader = Runner.from_cfg(cfg).build_dataloader(cfg.train_dataloader, seed=3)
    with preserved_random_state():
        whole, later = sample_stream(loader, 3), sample_stream(loader, 3, skip=9)
        batches = [next(whole) for _ in range(11)]
        assert [next(later) for _ in range(9)] == [None] * 9
        for batch in batches[9:]:
            again = next(later)
            assert all(torch.equal(a, b) for a, b in zip(batch['inputs'], again['inputs']))
        assert not torch.equal(batches[0]['inputs'][0], batches[1]['inputs'][0])


@pytest.mark.parametrize('options, match', [
    ({'default_hooks.checkpoint.max_keep_ckpts': 1}, 'max_keep_ckpts=1 removes the only checkpoint'),
    ({'optim_wrapper.accumulative_counts': 3}, 'interval=2 falls between the 3 mini-batches'),
    ({'train_dataloader.sampler.type': 'DefaultSampler'}, 'draws its samples by DefaultSampler'),
    ({'optim_wrapper.accumulative_counts': 2, 'train_cfg.val_interval': 3}, 'train_cfg.val_interval=3 falls'),
    ({'optim_wrapper.accumulative_counts': 2, 'train_cfg.dynamic_intervals': [(4, 5)]}, 'val_interval=5 falls'),
    ({'optim_wrapper.accumulative_counts': 2, 'default_hooks.checkpoint.save_begin': 3}, 'save_begin=3 falls'),
])
def test_what_cannot_be_resumed_exactly_is_refused_at_the_start(make, options, match):
    with pytest.raises(ValueError, match=match):
        train(make(**options))


def test_another_run_is_not_gone_on_with(make):
    options = {'default_hooks.checkpoint.interval': 2, 'train_cfg.val_interval': 2}
    train(make('run', 2, **options))
    cfg = make('run', 4, **{'train_dataloader.batch_size': 2, 'default_hooks.batch.images': 2, **options})
    cfg.resume = True
    with pytest.raises(RuntimeError, match='batch_size was 4 and is 2'):
        train(cfg)
    train(make('plain', 2, custom_hooks=HOOKS[:1], **options))
    cfg = make('plain', 4, **options)
    cfg.resume = True
    with pytest.raises(RuntimeError, match='2 iterations without ExactResumeHook'):
        train(cfg)


def test_a_transform_that_no_seed_reaches_is_refused_by_name(make):
    cfg = make()
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Unseeded'))
    with pytest.raises(ValueError, match='Unseeded draws random numbers that no seed reaches.*another transform'):
        train(cfg)


ALBU = dict(type='Albu', transforms=[
    dict(type='RandomBrightnessContrast', p=0.5),
    dict(type='OneOf', transforms=[dict(type='GaussNoise', p=1), dict(type='MedianBlur', p=1)], p=0.5)])


@pytest.mark.parametrize(('transform', 'workers'), [(dict(type='OwnGenerators'), 0), (dict(type='OwnGenerators'), 2),
                                                    (ALBU, 2)], ids=['own-0', 'own-2', 'Albu'])
def test_transforms_with_generators_of_their_own_are_seeded(make, transform, workers):
    if transform is ALBU:
        pytest.importorskip('albumentations', reason="mmseg's Albu needs albumentations, which is not installed")

    def config(name, iters, **options):
        cfg = make(name, iters, **options)
        cfg.train_dataloader.dataset.pipeline.insert(2, dict(transform))  # after image and label
        cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
        return cfg

    options = {'train_cfg.val_interval': 6, 'default_hooks.checkpoint.interval': 3}
    one, two = (weights(train(config(name, 6, **options))) for name in ('one', 'two'))
    assert equal(one, two) and equal(one, weights(in_parts(config, 'parts')))


@pytest.mark.parametrize('options', [
    {'train_cfg.val_interval': 4},  # a better model is saved after a validation, with the whole state
    {'train_cfg.val_interval': 3, 'default_hooks.checkpoint.save_best': None}])
def test_accumulated_gradients_are_not_lost(make, tmp_path, options):
    """A kill after every optimizer step: what is resumed from is never in the midst of an accumulation."""
    options = {'optim_wrapper.accumulative_counts': 2, 'train_dataloader.num_workers': 0,
               'train_dataloader.persistent_workers': False, **options}
    whole = weights(train(make('whole', 7, **options)))
    for at in (4, 5):
        def stop(runner, batch, at=at):
            if runner.iter == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(make(f'at {at}', 7, **options), stop)
        cfg = make(f'at {at}', 7, **options)
        cfg.resume = True
        assert equal(whole, weights(train(cfg))), at


def test_other_file_backends_are_left_alone(make):
    cfg = make(iters=2, **{'default_hooks.checkpoint.backend_args': dict(backend='local'), 'train_cfg.val_interval': 2})
    runner = train(cfg)
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    assert hook.backend_args == dict(backend='local')
