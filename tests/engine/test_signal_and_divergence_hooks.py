"""Runs that end early: by a signal, to go on later, and because they diverged."""

import copy
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from support.pretrained_files import write_start
from support.small_runs import SMALL, small, train
from support.training_process import TrainingProcess

from mmseg_daft.engine.hooks.checkpoint_on_signal_hook import CHECKPOINT, STOPPED, CheckpointOnSignalHook
from mmseg_daft.engine.hooks.divergence_hook import MARK


@HOOKS.register_module()
class AskHook(Hook):
    """A signal before the first iteration."""

    def before_train(self, runner):
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers():
    """Leave this process's handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def config(shapes_root, tmp_path):
    """A run without anything random but the order of the data: checkpoints hold no random state."""
    def make(name, **options):
        cfg = small(SMALL / 'ft.py', tmp_path / name, shapes_root, iters=5, **copy.deepcopy(options))
        pipeline = cfg.train_dataloader.dataset.pipeline
        cfg.train_dataloader.dataset.pipeline = [t for t in pipeline if not t['type'].startswith('Random')]
        cfg.model.data_preprocessor.size = (60, 80)
        cfg.model.decode_head.dropout_ratio = 0
        write_start(cfg, tmp_path)
        return cfg
    return make


@pytest.mark.slow
def test_a_signal_saves_ends_and_resumes_as_if_nothing_had_been(config, tmp_path):
    train(config('whole'))
    seen = []

    def look(runner, batch):
        seen.append(runner.iter)
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGUSR2)

    with pytest.raises(SystemExit) as stop:
        train(config('broken'), look)
    assert stop.value.code == STOPPED and seen == [0, 1, 2]
    work_dir = tmp_path / 'broken'
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / CHECKPOINT)
    assert not [*work_dir.glob('*.part'), *work_dir.glob('iter_*.pth')]
    runner = train(config('broken', resume=True), look)
    assert seen == [0, 1, 2, 3, 4] and runner.iter == 5
    one, two = (torch.load(tmp_path / name / 'iter_5.pth') for name in ('whole', 'broken'))
    for name, tensor in one['state_dict'].items():
        assert torch.equal(tensor, two['state_dict'][name]), name
    assert one['param_schedulers'] == two['param_schedulers']
    assert not (work_dir / CHECKPOINT).exists()


def compare(folder, checkpoint):
    """Check that two runs ended with the same weights, momentum and schedules, after as many iterations."""
    one, two = (torch.load(folder / name / checkpoint) for name in ('whole', 'broken'))
    assert one['meta']['iter'] == two['meta']['iter'] and one['param_schedulers'] == two['param_schedulers']
    for name, tensor in one['state_dict'].items():
        assert torch.equal(tensor, two['state_dict'][name]), name
    for kept, other in zip(one['optimizer']['state'].values(), two['optimizer']['state'].values(), strict=True):
        assert torch.equal(kept['momentum_buffer'], other['momentum_buffer'])


def broken_at(config, iteration, **options):
    """Train, send a signal in an iteration, resume, and return the iterations that there were."""
    seen = []

    def look(runner, batch):
        seen.append(runner.iter)
        if runner.iter == iteration and len(seen) == iteration + 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(SystemExit) as stop:
        train(config('broken', **options), look)
    assert stop.value.code == STOPPED
    train(config('broken', resume=True, **options), look)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize('iteration', [1, 2, 3])
def test_a_signal_between_two_optimizer_steps_waits_for_the_next(config, tmp_path, iteration):
    options = {'optim_wrapper.accumulative_counts': 2}
    train(config('whole', **options))
    assert broken_at(config, iteration, **options) == [0, 1, 2, 3, 4]
    compare(tmp_path, 'iter_5.pth')


EPOCHS = {'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=3, _delete_=True),
          'train_dataloader.sampler.type': 'DefaultSampler', 'train_dataloader.drop_last': True,
          'train_dataloader.batch_size': 2,
          'param_scheduler.0': dict(end=3, by_epoch=True), 'default_hooks.checkpoint.by_epoch': True,
          'default_hooks.checkpoint.interval': 3}


@pytest.mark.slow
def test_a_signal_within_an_epoch_waits_for_its_end(config, tmp_path):
    train(config('whole', **EPOCHS))
    assert broken_at(config, 3, **EPOCHS) == [*range(9)]
    compare(tmp_path, 'epoch_3.pth')


@pytest.mark.slow
@pytest.mark.parametrize('iteration, options, steps', [
    (1, {'train_cfg.val_interval': 2}, [2, 4, 5]), (3, {**EPOCHS, 'train_cfg.val_interval': 1}, [3, 6, 9])])
def test_a_validation_that_is_due_comes_before_the_end(config, tmp_path, iteration, options, steps):
    """A resumed run does not make up for it, and save_best would never see that model."""
    broken_at(config, iteration, **options)
    lines = [json.loads(line) for file in sorted(tmp_path.glob('broken/*/vis_data/scalars.json'))
             for line in file.read_text().splitlines()]
    assert [line['step'] for line in lines if 'mIoU' in line] == steps


@pytest.mark.slow
def test_a_start_goes_on_by_an_iteration_at_least(config, tmp_path):
    """However early the signal comes: a job whose start takes long would be requeued for ever."""
    for iteration in (0, 1):
        cfg = config('run', resume=True)
        cfg.custom_hooks = [dict(type='AskHook')]
        with pytest.raises(SystemExit):
            train(cfg)
        assert torch.load(tmp_path / 'run' / CHECKPOINT)['meta']['iter'] == iteration + 1


def test_a_signal_in_the_last_iteration_changes_nothing(config, tmp_path):
    train(config('run'), lambda runner, batch: runner.iter == 4 and os.kill(os.getpid(), signal.SIGUSR1))
    assert (tmp_path / 'run' / 'iter_5.pth').exists()


@pytest.mark.slow
@pytest.mark.parametrize('signals', [None, 'SIGUSR2'], ids=['no hook', 'a hook for another'])
def test_a_signal_that_no_hook_waits_for_ends_the_run(config, tmp_path, signals):
    """As any process: held back, it would come to nothing."""
    cfg = config('run', **{'train_cfg.max_iters': 100, 'train_cfg.val_interval': 100})
    if signals:
        cfg.default_hooks.on_signal.signals = signals
    else:
        del cfg.default_hooks['on_signal']
    cfg.custom_imports = dict(imports=['mmseg_daft', 'support.training_events'])
    cfg.custom_hooks = [dict(type='EventsHook')]
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'run.py')
    process = TrainingProcess([tmp_path / 'run.py', '--work-dir', tmp_path / 'run'], tmp_path / 'run')
    assert process.wait_for('iteration', 1), process.log.read_text()[-3000:]
    process.ask(signal.SIGUSR1)
    assert process.ranks[0].exitcode == -signal.SIGUSR1


def test_a_runner_in_a_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGUSR2)
    thread = threading.Thread(target=CheckpointOnSignalHook)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR2) == before


@pytest.mark.slow
def test_a_diverged_run_ends_at_once_and_says_so(config, tmp_path):
    rates = {'optim_wrapper.paramwise_cfg.backbone_lr': 1e30, 'optim_wrapper.paramwise_cfg.head_lr': 1e30}
    with pytest.raises(FloatingPointError, match='iteration 2 is nan.*Lower the learning rate'):
        train(config('run', **rates))
    mark = tmp_path / 'run' / MARK
    assert json.loads(mark.read_text())['iteration'] == 2
    assert not [*Path(tmp_path / 'run').glob('iter_*.pth')]
    train(config('run'))
    assert not mark.exists()
