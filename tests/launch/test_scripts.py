"""mmseg's own scripts, as processes: train, test, resume; alone and as two processes on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mmseg
import pytest
import torch
from support.pretrained_files import write_start
from support.small_runs import DAFT_VOC, SMALL, small, train

from mmseg_daft.engine.convert_model import RECORD

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MMSEG = Path(mmseg.__file__).parent / '.mim' / 'tools'
TRAIN, TEST = ([ROOT / 'tools' / name] for name in ('train.py', 'test.py'))
STARTS = dict(mmseg=([MMSEG / 'train.py'], [MMSEG / 'test.py']), tools=(TRAIN, TEST),
              module=(['-m', 'mmseg_daft', 'train'], ['-m', 'mmseg_daft', 'test']))


def command(*words, **env):
    result = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=ROOT,
                            env=dict(os.environ, OMP_NUM_THREADS='1', **env))
    return result.returncode, result.stdout + result.stderr


def succeed(*words, **env):
    code, output = command(*words, **env)
    assert code == 0, output[-3000:]
    return output


@pytest.fixture
def config(voc_root, tmp_path):
    """A small DAFT config as a file, for processes."""
    cfg = small(DAFT_VOC, tmp_path / 'run', voc_root, iters=2)
    write_start(cfg, tmp_path)
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'small.py')
    return tmp_path / 'small.py'


@pytest.mark.parametrize(('training', 'test'), STARTS.values(), ids=STARTS)
def test_train_resume_and_test(config, tmp_path, training, test):
    output = succeed(*training, config)
    assert output.count('BN conversion of backbone: 53 layers found, 53 converted') == 1
    longer = ['--cfg-options', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4']
    output = succeed(*training, config, '--resume', *longer)
    assert 'BN conversion: done before this run was resumed (13 images' in output
    assert 'layers found' not in output
    trained = re.findall(r'mIoU: ([\d.]+)', output)[-1]
    drawn = ['--show-dir', tmp_path / 'drawn', '--out', tmp_path / 'labels', '--wait-time', 0.5, '--cfg-options',
             'default_hooks.visualization.interval=1']
    output = succeed(*test, config, tmp_path / 'run' / 'iter_4.pth', '--work-dir', tmp_path / 'test', *drawn)
    assert re.findall(r'mIoU: ([\d.]+)', output)[-1] == trained
    assert len([*(tmp_path / 'drawn').rglob('*.png')]) == len([*(tmp_path / 'labels').rglob('*.png')]) == 2


@pytest.fixture
def baseline(shapes_root, tmp_path):
    """Fine-tuning without any of our hooks, as a file, from a source that was trained for longer than itself."""
    cfg = small(SMALL / 'ft.py', tmp_path / 'source', shapes_root, iters=6)
    write_start(cfg, tmp_path)
    for ours in ('pretrained', 'batch', 'evaluation', 'divergence', 'on_signal'):
        del cfg.default_hooks[ours]
    train(cfg)
    cfg.load_from = str(tmp_path / 'source' / 'iter_6.pth')
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    for key in ('experiment_name', 'work_dir'):
        cfg.pop(key)
    cfg.dump(tmp_path / 'baseline.py')
    return tmp_path / 'baseline.py'


def test_a_baseline_that_is_always_started_with_resume_is_the_run_without(baseline, tmp_path):
    """As a sweep or a requeued job starts it; MMEngine would resume the source, and train nothing."""
    runs = {name: ['--work-dir', tmp_path / name] for name in ('plain', 'resumed')}
    succeed(*TRAIN, baseline, *runs['plain'])
    output = succeed(*TRAIN, baseline, '--res', *runs['resumed'])
    assert 'holds no checkpoint yet, so the run starts, from the weights of load_from=' in output
    plain, resumed = (torch.load(tmp_path / name / 'iter_2.pth')['state_dict'] for name in runs)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in plain.items())
    longer = ['--cfg-options', 'train_cfg.max_iters=3', 'train_cfg.val_interval=3']
    output = succeed(*TRAIN, baseline, '--resume', *runs['resumed'], *longer)
    assert 'resumed epoch: 0, iter: 2' in output and 'from the last checkpoint in' in output


def test_a_source_of_the_same_name_is_refused_before_training(baseline, tmp_path):
    succeed(*TRAIN, baseline, '--work-dir', tmp_path / 'run')
    code, output = command(*TRAIN, baseline, '--resume', '--work-dir', tmp_path / 'new', '--cfg-options',
                           f'load_from={tmp_path / "run" / "iter_2.pth"}')
    assert code == 1 and output.count('Traceback') == 0 and 'leave out --resume' in output


def launch(script, *words, cwd):
    """Run one of the launch scripts for machines without Slurm, from a folder of its own."""
    result = subprocess.run([ROOT / 'tools' / script, *map(str, words)], capture_output=True, text=True, cwd=cwd,
                            env=dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable))
    return result.returncode, result.stdout + result.stderr


def test_two_processes_share_the_pass_and_get_the_same_conversion(config, tmp_path):
    """Without a learning rate, what is left of training in γ, β and the convolutions is the conversion."""
    still = ['optim_wrapper.paramwise_cfg.backbone_lr=0.0', 'optim_wrapper.paramwise_cfg.head_lr=0.0',
             'train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1',
             'randomness.diff_rank_seed=True']
    succeed(*TRAIN, config, '--work-dir', tmp_path / 'one', '--cfg-options', *still)
    code, output = launch('dist_train.sh', config, 2, '--work-dir', tmp_path / 'two', '--cfg-options', *still,
                          cwd=tmp_path)
    assert code == 0, output[-3000:]
    one, two = (torch.load(tmp_path / name / 'iter_1.pth') for name in ('one', 'two'))
    record = two['message_hub']['runtime_info'][RECORD]
    assert (record['num_images'], record['num_batches']) == (13, 4)
    for name, tensor in one['state_dict'].items():
        if name.startswith('backbone') and 'running' not in name and 'tracked' not in name:
            torch.testing.assert_close(two['state_dict'][name], tensor, rtol=1e-5, atol=1e-6)

    checkpoint, place = tmp_path / 'two' / 'iter_1.pth', ('--work-dir', tmp_path / 'test')
    code, output = launch('dist_test.sh', config, checkpoint, 2, *place, cwd=tmp_path)
    assert code == 0, output[-3000:]
    alone = succeed(*TEST, config, checkpoint, *place)
    miou = [re.findall(r'mIoU: ([\d.]+)', text)[-1] for text in (output, alone)]
    assert miou[0] == miou[1]


@pytest.mark.parametrize('start', ['tools', 'module'])
def test_workers_that_are_spawned_import_mmseg_with_the_repairs(config, start):
    """They import the main module before anything else; mmseg's own data sets do not import this package."""
    succeed(*STARTS[start][0], config, '--cfg-options', 'env_cfg.mp_cfg.mp_start_method=spawn',
            'train_dataloader.num_workers=1', 'val_dataloader.num_workers=1', 'val_dataloader.persistent_workers=False')


def test_a_rank_that_fails_ends_the_job_with_its_own_error(config, tmp_path):
    """torchrun starts the package by its name, too."""
    code, output = command('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2, '-m', 'mmseg_daft',
                           'train', config, '--launcher', 'pytorch', '--work-dir', tmp_path / 'two', '--cfg-options',
                           'custom_hooks.0.modules=backbon')
    assert code != 0 and "no submodule 'backbon'" in output


def test_launching_without_torchrun_says_what_to_do(config):
    code, output = command(*TRAIN, config, '--launcher', 'pytorch')
    if torch.cuda.is_available():
        pytest.skip('on a GPU the launcher is all mmengine\'s')
    assert code != 0 and 'torchrun --nproc_per_node 2' in output
