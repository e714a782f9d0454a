"""The cluster, and a small run whose result does not depend on being interrupted."""

import sys
import tempfile
from pathlib import Path

import pytest
from mmengine.config import Config
from support import environment
from support.pretrained_files import write_start
from support.slurm_cluster import SlurmCluster, why_not_here
from support.small_runs import SMALL, small

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def cluster():
    if why_not_here():
        pytest.skip(why_not_here())
    with tempfile.TemporaryDirectory(
            prefix='slurm.', ignore_cleanup_errors=True) as folder, SlurmCluster(Path(folder) / 'c') as running:
        # PYTHON: the scripts' interpreter. PYTHONPATH: for the hook that slows iterations down.
        running.env.update(PYTHON=sys.executable, OMP_NUM_THREADS='1', DEVICE='gpu', PYTHONUNBUFFERED='1',
                           PYTHONPATH=environment()['PYTHONPATH'])
        yield running


@pytest.fixture(scope='session')
def config(tmp_path_factory, shapes_root):
    """DAFT on shapes, 12 iterations, without anything random but the order of the data.

    MMEngine's checkpoints hold no random state, so augmentation and dropout would differ after a resume. The
    conversion is in it: a resumed run must not convert again.
    """
    folder = tmp_path_factory.mktemp('run')
    cfg = small(SMALL / 'daft.py', folder / 'unused', shapes_root,
                iters=12)
    cfg.train_dataloader.dataset.pipeline = [
        t for t in cfg.train_dataloader.dataset.pipeline if not t['type'].startswith('Random')]
    cfg.train_dataloader.update(num_workers=1, batch_size=2)
    cfg.model.data_preprocessor.size = (60, 80)
    cfg.model.decode_head.dropout_ratio = 0
    cfg.default_hooks.checkpoint.interval = 1
    cfg.custom_imports.imports.append('support.training_events')
    cfg.custom_hooks.append(dict(type='SlowIterationsHook'))
    write_start(cfg, folder)
    for key in ('experiment_name', 'work_dir'):
        cfg.pop(key)
    cfg.dump(folder / 'small.py')
    Config.fromfile(folder / 'small.py', import_custom_modules=False)
    return folder / 'small.py'
