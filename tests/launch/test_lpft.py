"""LP-FT by one command, as processes: both stages, broken off in between and in the first stage."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.config import Config
from support.pretrained_files import trained_state, write_start
from support.small_runs import SMALL, small

from mmseg_daft.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture
def stages(shapes_root, tmp_path):
    """The two stages of the demo's data as small config files."""
    paths = []
    for folder in ('lp', 'lpft'):
        cfg = small(SMALL / f'{folder}.py', tmp_path / folder, shapes_root, iters=3)
        cfg.default_hooks.checkpoint.interval = 1
        if folder == 'lp':
            write_start(cfg, tmp_path)
        cfg.pop('experiment_name')
        cfg.dump(tmp_path / f'{folder}.py')
        paths.append(tmp_path / f'{folder}.py')
    return paths


def command(*words):
    return [sys.executable, '-m', 'mmseg_daft', 'lpft', *map(str, words)]


def lpft(*words):
    done = subprocess.run(command(*words), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def state(path):
    return torch.load(path)['state_dict']


def test_the_second_stage_starts_from_the_first_also_after_it_failed(stages, tmp_path):
    lp, ft = stages
    cfg = Config.fromfile(ft)
    cfg.optim_wrapper.paramwise_cfg = dict(backbone_lr=0.0, head_lr=0.0)
    cfg.dump(ft)
    good = ft.read_text()
    ft.write_text(good.replace("'BNTestModeHook'", "'BNTestModeHok'"))
    work = ['--work-dir', tmp_path / 'runs']
    code, output = lpft(lp, ft, *work)
    assert code != 0 and 'BNTestModeHok' in output
    assert 'stage 2 of 2 failed with exit status 1; mend it and start this command again' in output
    final = tmp_path / 'runs' / 'lp' / 'iter_3.pth'
    written = final.stat().st_mtime_ns

    ft.write_text(good)
    code, output = lpft(lp, ft, *work)
    assert code == 0, output[-3000:]
    assert 'final validation is missing' not in output
    assert 'stage 1 of 2: finished before' in output and final.stat().st_mtime_ns == written
    # Without a learning rate, and with batch norm in test mode, the second stage ends as it started.
    after = state(tmp_path / 'runs' / 'lpft' / 'iter_3.pth')
    for name, tensor in state(final).items():
        assert torch.equal(after[name], tensor), name

    code, output = lpft(lp, ft, *work)
    assert code == 0 and output.count('finished before') == 2

    code, output = lpft(lp, ft, *work, '--cfg-options', 'optim_wrapper.paramwise_cfg.backbone_lr=0.1')
    assert code != 0 and 'lp holds a finished run of another config: it differs in optim_wrapper' in output
    os.utime(final)  # as if stage 1 had been trained anew
    code, output = lpft(lp, ft, *work)
    assert code != 0 and 'began from another head' in output


def test_killed_in_its_first_stage_it_goes_on_from_there(stages, tmp_path):
    lp, ft = stages
    cfg = Config.fromfile(lp)
    cfg.load_from = str(tmp_path / 'source.pth')  # which is no more the start once the stage is resumed
    torch.save(dict(state_dict=trained_state(dict(cfg.model, init_cfg=None))), cfg.load_from)
    cfg.dump(lp)
    work = ['--work-dir', tmp_path / 'runs']
    slow = ['--cfg-options', 'train_cfg.max_iters=20', 'train_cfg.val_interval=20']
    process = subprocess.Popen(command(lp, ft, *work, *slow), start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    note = tmp_path / 'runs' / 'lp' / 'last_checkpoint'
    deadline = time.monotonic() + 600
    while not note.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert note.exists() and not (tmp_path / 'runs' / 'lpft').exists()
    longer = ['--cfg-options', 'train_cfg.max_iters=22', 'train_cfg.val_interval=22']
    code, output = lpft(lp, ft, *work, *longer)
    assert code == 0, output[-3000:]
    assert 'resumed epoch: 0, iter: ' in output.split('stage 2 of 2')[0]
    assert (tmp_path / 'runs' / 'lpft' / 'iter_22.pth').is_file()
    code, output = lpft(lp, ft, *work, *longer)
    assert code == 0 and output.count('finished before') == 2, output[-3000:]
    code, output = lpft(lp, ft, *work, *longer, f'load_from={tmp_path / "other.pth"}')
    assert code != 0 and 'lp holds a finished run of another config: it differs in load_from' in output


def test_epochs_checkpoints_elsewhere_and_a_source_that_the_head_comes_on_top_of(stages, tmp_path):
    """The first stage's checkpoints have a place and names of their own; ``load_from`` is what it starts from."""
    lp, ft = stages
    for number, path in enumerate(stages):
        cfg = Config.fromfile(path)
        if number == 0:
            torch.save(dict(state_dict=trained_state(dict(cfg.model, init_cfg=None))), tmp_path / 'source.pth')
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
        cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', out_dir=str(tmp_path / 'models'),
                                            filename_tmpl='after_{}.pth')
        cfg.default_hooks.logger.log_metric_by_epoch = bool(number)
        cfg.load_from = str(tmp_path / 'source.pth')
        cfg.optim_wrapper.paramwise_cfg = dict(backbone_lr=0.0, head_lr=0.0 if number else 1.0)
        cfg.dump(path)
    work = ['--work-dir', tmp_path / 'runs']
    code, output = lpft(lp, ft, *work)
    assert code == 0 and 'final validation is missing' not in output, output[-3000:]
    source, head, final = map(state, (tmp_path / name for name in (
        'source.pth', 'models/lp/after_1.pth', 'models/lpft/after_1.pth')))
    assert all(torch.equal(head[name], tensor) for name, tensor in source.items() if name.startswith('backbone'))
    assert not torch.equal(head['decode_head.conv_seg.weight'], source['decode_head.conv_seg.weight'])
    assert all(torch.equal(final[name], tensor) for name, tensor in head.items())
    code, output = lpft(lp, ft, *work)
    assert code == 0 and output.count('finished before') == 2, output[-3000:]


def refusal(*words):
    with pytest.raises(SystemExit) as stop:
        main(['lpft', *map(str, words)])
    return str(stop.value.code)


def test_what_cannot_come_to_its_end_is_refused_before_the_first_stage(stages, tmp_path):
    lp, ft = stages
    work = ['--work-dir', tmp_path / 'runs']
    (tmp_path / 'file').touch()
    other = tmp_path / 'other' / 'lp.py'
    other.parent.mkdir()
    other.write_text(lp.read_text())
    epochs = ['train_cfg.type=EpochBasedTrainLoop', 'train_cfg.max_epochs=2']
    for words, sentence in (
            ((lp, 'nowhere.py'), 'There is no config nowhere.py'),
            ((lp, ft, '--cfg-options', 'x'), f'not KEY=VALUE of {lp}'),
            ((lp, ft, '--work-dir', tmp_path / 'my runs'), 'Name a --work-dir, or an out_dir'),
            ((lp, ft, *work, '--cfg-options', 'default_hooks.checkpoint.out_dir=/tmp/(a)'), '/tmp/(a): the second'),
            ((lp, ft, '--work-dir', tmp_path / 'file'), 'is no folder. Name another place'),
            ((lp, other), 'Both stages would be trained in work_dirs/lp'),
            ((lp, ft, *work, '--cfg-options', 'optim_wrapper=None'), 'lp.py lacks optim_wrapper'),
            ((lp, ft, *work, '--cfg-options', 'train_cfg.max_iters=None'), 'max_iters or max_epochs'),
            ((lp, ft, *work, '--cfg-options', 'train_cfg.max_iters=0'), 'max_iters or max_epochs'),
            ((lp, ft, *work, '--cfg-options', 'default_hooks.checkpoint=None'), 'without a CheckpointHook'),
            ((lp, ft, *work, '--cfg-options', *epochs), 'Set default_hooks.checkpoint.by_epoch=True'),
            ((lp, ft, *work, '--cfg-options', 'default_hooks.checkpoint.save_last=False',
              'default_hooks.checkpoint.interval=2'), 'does not save the final model')):
        assert sentence in refusal(*words)
    assert not [*tmp_path.rglob('last_checkpoint')]
