"""Statistics do not depend on how many ranks computed them: real processes, gloo, uneven shares."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from networks import Network, pretrained

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.statistics import collect_statistics

BATCHES = 5  # of 2 ranks one has no share in the last round, of 6 ranks one has no share at all


def setting(sync):
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=3, sync=sync, shared=True))
    batches = [torch.randn(n, 5, 6, 6) * (1 + i) + 100 for i, n in enumerate([3, 3, 3, 3, 1])]
    return model, find_batch_norms(model, ('',)), batches


def run(rank, world_size, sync, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/rendezvous', rank=rank, world_size=world_size)
    model, layers, batches = setting(sync)
    mine = batches[rank::world_size]
    mine += [None] * (-(-BATCHES // world_size) - len(mine))
    statistics = collect_statistics(model, layers, mine, model)
    torch.save({n: (s.mean, s.var, s.num_batches) for n, s in statistics.items()}, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.parametrize('world_size', [2, 6])
@pytest.mark.parametrize('sync', [False, True], ids=['BatchNorm', 'SyncBatchNorm'])
def test_ranks_do_not_matter(world_size, sync, tmp_path):
    model, layers, batches = setting(sync)
    if sync:  # a mini-batch of SyncBatchNorm is that of all ranks
        batches = [torch.cat(batches[i:i + world_size]) for i in range(0, BATCHES, world_size)]
    alone = collect_statistics(model, layers, batches, model)
    mp.start_processes(run, (world_size, sync, str(tmp_path)), nprocs=world_size, start_method='spawn')
    ranks = [torch.load(tmp_path / f'{rank}.pt') for rank in range(world_size)]
    for name, s in alone.items():
        mean, var, num_batches = ranks[0][name]
        assert num_batches == s.num_batches
        np.testing.assert_allclose(mean, s.mean, rtol=1e-6)
        np.testing.assert_allclose(var, s.var, rtol=1e-6)
        for other in ranks[1:]:
            assert torch.equal(other[name][0], mean) and torch.equal(other[name][1], var)
