"""Several processes on the CPU: what MMEngine's own wrapper does on GPUs."""

import pytest
import torch
from support.pretrained_files import write_start
from support.ranks import on_ranks
from support.small_runs import SMALL, small
from support.training_process import TrainingProcess
from torch import nn

from mmseg_daft.engine.cpu_distributed import CPUDistributedDataParallel


def statistics(model, rank):
    for seed in range(3):
        model(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(10 * rank + seed)))
    return (model.module if isinstance(model, CPUDistributedDataParallel) else model).running_mean


def wrapped_statistics(rank, world_size):
    return statistics(CPUDistributedDataParallel(module=nn.BatchNorm2d(2), device_ids=[0]), rank)


def test_each_process_keeps_its_own_running_statistics(tmp_path):
    found = on_ranks(2, wrapped_statistics, tmp_path / 'ranks')
    for rank, mean in enumerate(found):
        torch.testing.assert_close(mean, statistics(nn.BatchNorm2d(2), rank))


@pytest.mark.slow
def test_find_unused_parameters_of_a_config_is_heard(shapes_root, tmp_path):
    """A head on the third stage leaves the fourth without gradients."""
    cfg = small(SMALL / 'ft.py', tmp_path / 'run', shapes_root, iters=3)
    cfg.model.decode_head = dict(
        type='FCNHead', in_index=2, in_channels=16, channels=8, num_convs=1, concat_input=False, num_classes=6)
    write_start(cfg, tmp_path)
    cfg.find_unused_parameters = True
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'run.py')
    arguments = [tmp_path / 'run.py', '--work-dir', tmp_path / 'run', '--launcher', 'pytorch']
    TrainingProcess(arguments, tmp_path / 'run', ranks=2).finish()
