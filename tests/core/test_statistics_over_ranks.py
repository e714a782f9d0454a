"""Statistics do not depend on how many ranks computed them, and no rank fails alone: real processes, gloo."""

import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.networks import Network, pretrained
from support.ranks import on_ranks
from torch import nn

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.ranks import current_ranks
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.core.stop_rule import StopRule

BATCHES = 5  # of 2 ranks one has no share in the last round, of 4 ranks three; the last mini-batch is short


def setting(sync, count=BATCHES):
    torch.manual_seed(0)
    model = pretrained(Network(2, depth=3, sync=sync, shared=True))
    sizes = [3] * (count - 1) + [1]
    return model, find_batch_norms(model, ('',)), [torch.randn(n, 5, 6, 6) * (1 + i) + 100 for i, n in enumerate(sizes)]


def plain(statistics):
    return {name: (s.mean, s.var, s.num_batches) for name, s in statistics.items()}


def collect(rank, world_size, sync, count, options):
    model, layers, batches = setting(sync, count)
    ranks = current_ranks(torch.device('cpu'))
    return plain(collect_statistics(model, layers, batches[rank::world_size], model, ranks=ranks, **options))


def compare(ranks, alone, exact):
    for name, (mean, var, num_batches) in alone.items():
        for other in ranks:
            assert torch.equal(other[name][0], ranks[0][name][0]) and torch.equal(other[name][1], ranks[0][name][1])
            assert other[name][2] == num_batches
        if exact:
            assert torch.equal(ranks[0][name][0], mean) and torch.equal(ranks[0][name][1], var)
        np.testing.assert_allclose(ranks[0][name][0], mean, rtol=1e-6)
        np.testing.assert_allclose(ranks[0][name][1], var, rtol=1e-6)


@pytest.mark.parametrize('count', [BATCHES, 3], ids=['uneven', 'empty'])
@pytest.mark.parametrize('world_size', [2, 4])
@pytest.mark.parametrize('sync', [False, True], ids=['BatchNorm', 'SyncBatchNorm'])
def test_ranks_do_not_matter(sync, world_size, count, tmp_path):
    """For BatchNorm not even to the last bit; a mini-batch of SyncBatchNorm is that of all ranks."""
    model, layers, batches = setting(sync, count)
    if sync:
        batches = [torch.cat(batches[i:i + world_size]) for i in range(0, count, world_size)]
    alone = plain(collect_statistics(model, layers, batches, model))
    compare(on_ranks(world_size, collect, tmp_path / 'ranks', sync, count, {}), alone, exact=not sync)


@pytest.mark.parametrize('sync', [False, True], ids=['BatchNorm', 'SyncBatchNorm'])
def test_normalizing_by_mini_batch_too(sync, tmp_path):
    """AdaBN's pass; BatchNorm also with an uneven last round, where SyncBatchNorm is refused before."""
    count = 4 if sync else BATCHES
    model, layers, batches = setting(sync, count)
    if sync:
        batches = [torch.cat(batches[i:i + 2]) for i in range(0, count, 2)]
    alone = plain(collect_statistics(model, layers, batches, model, by_batch=True))
    compare(on_ranks(2, collect, tmp_path / 'ranks', sync, count, {'by_batch': True}), alone, exact=not sync)
    in_test_mode = collect_statistics(model, layers, batches, model)
    assert not torch.allclose(alone['norms.2'][0], in_test_mode['norms.2'].mean, rtol=1e-2)


def collect_apart(rank, world_size):
    model, layers, batches = setting(False)
    return plain(collect_statistics(model, layers, batches[rank::world_size], model))


def test_ranks_that_would_each_keep_statistics_of_their_own_are_refused(tmp_path):
    errors = on_ranks(2, collect_apart, tmp_path / 'ranks')
    assert all('pass ranks=mmseg_daft.core.Ranks(device)' in str(error) for error in errors)


@pytest.mark.parametrize('sync', [False, True], ids=['BatchNorm', 'SyncBatchNorm'])
def test_stopping_is_agreed_and_the_same_as_alone(sync, tmp_path):
    options = {'stop': StopRule(0.5, 2)}
    model, layers, batches = setting(sync, 40)
    if sync:
        batches = [torch.cat(batches[i:i + 2]) for i in range(0, 40, 2)]
    alone = plain(collect_statistics(model, layers, batches, model, **options))
    ranks = on_ranks(2, collect, tmp_path / 'ranks', sync, 40, options)
    used = ranks[0]['norms.1'][2]
    assert 2 <= used < len(batches) and used - alone['norms.1'][2] in (0, 1)  # ranks stop at the end of a round
    compare(ranks, plain(collect_statistics(model, layers, batches[:used], model)), exact=not sync)


def count_collectives(rank, world_size, sync):
    calls = []
    for name in [n for n in dir(dist.distributed_c10d) if n.startswith(
            ('all_', 'broadcast', 'reduce', 'gather', 'scatter', 'barrier'))]:
        original = getattr(dist, name, None)
        if callable(original):
            setattr(dist, name, lambda *a, _f=original, _n=name, **k: (calls.append(_n), _f(*a, **k))[1])
    per_batch = []
    model, layers, batches = setting(sync, 8)

    def forward(batch):
        per_batch.append(len(calls))
        model(batch)

    collect_statistics(model, layers, batches[rank::world_size], forward, ranks=current_ranks(torch.device('cpu')))
    return np.diff(per_batch).tolist(), calls


@pytest.mark.parametrize('sync', [False, True], ids=['BatchNorm', 'SyncBatchNorm'])
def test_one_collective_a_mini_batch_for_all_layers_together(sync, tmp_path):
    """Three in the first round, where the ranks also agree on the order of the layers."""
    for between, calls in on_ranks(2, count_collectives, tmp_path / 'ranks', sync):
        assert between == [3, 1, 1]
        assert calls == ['all_gather', 'all_gather_object'] + ['all_gather'] * 5 + ['broadcast']


class Broken:
    """A rank's mini-batches, of which the second cannot be read."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield self.batches[0]
        raise OSError('cannot read frame_0042.png')


def fail(rank, world_size, where, sync, folder):
    model, layers, batches = setting(sync, 40)
    seen = []

    def forward(batch):
        seen.append(batch)
        if rank == 1 and len(seen) == 2:
            if where == 'forward':
                raise ValueError('image frame_0042.png holds NaN')
            if where == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
        model(batch)

    share = batches[rank::world_size]
    start = time.monotonic()
    try:
        collect_statistics(model, layers, Broken(share) if where == 'data' and rank == 1 else share, forward,
                           ranks=current_ranks(torch.device('cpu')))
    except Exception as error:
        assert not any(module._forward_pre_hooks for module in model.modules())
        return type(error), str(error), len(seen), time.monotonic() - start


@pytest.mark.parametrize('sync', [False, True], ids=['BatchNorm', 'SyncBatchNorm'])
@pytest.mark.parametrize('where, kind, message', [
    ('data', OSError, 'cannot read frame_0042.png'), ('forward', ValueError, 'image frame_0042.png holds NaN')])
def test_a_rank_that_fails_takes_all_down_at_once_with_its_own_error(where, kind, message, sync, tmp_path):
    ranks = on_ranks(2, fail, tmp_path / 'ranks', where, sync, str(tmp_path))
    assert ranks[1][:2] == (kind, message)
    assert ranks[0][0] is RuntimeError and f'Rank 1 failed, so all ranks stop. Its error: {kind.__name__}: {message}' \
        in ranks[0][1]
    assert ranks[0][2] == 2, 'the other rank went on'


def test_a_rank_that_is_killed_does_not_leave_the_others_waiting(tmp_path):
    ranks = on_ranks(2, fail, tmp_path / 'ranks', 'kill', False, str(tmp_path))
    assert ranks[1] is None and issubclass(ranks[0][0], RuntimeError) and ranks[0][2] == 2


def test_sync_batch_norm_on_one_rank_is_batch_norm():
    results = []
    for sync in (False, True):
        model, layers, batches = setting(sync)
        assert isinstance(model.norms[0], nn.SyncBatchNorm) == sync
        results.append(plain(collect_statistics(model, layers, batches, model, by_batch=True)))
    assert all(torch.equal(results[0][name][0], results[1][name][0]) for name in results[0])
