"""LP-FT by one command, as processes: both stages, broken off in between and in the first stage."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.config import Config
from support.pretrained_files import write_start
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
    code, output = lpft(lp, ft, *work, '--cfg-options', 'train_cfg.max_iters=22', 'train_cfg.val_interval=22')
    assert code == 0, output[-3000:]
    assert 'resumed epoch: 0, iter: ' in output.split('stage 2 of 2')[0]
    assert (tmp_path / 'runs' / 'lpft' / 'iter_22.pth').is_file()


def test_a_missing_config_options_that_do_not_fit_and_a_place_that_no_option_can_name_are_refused(stages, tmp_path):
    for words, sentence in (((stages[0], 'nowhere.py'), 'There is no config nowhere.py'),
                            ((*stages, '--cfg-options', 'x'), 'not KEY=VALUE of .*lp.py'),
                            ((*stages, '--work-dir', tmp_path / 'my runs'), 'Name a --work-dir without')):
        with pytest.raises(SystemExit, match=sentence):
            main(['lpft', *map(str, words)])
