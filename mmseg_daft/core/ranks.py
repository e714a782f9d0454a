"""A pass over several ranks: what they tell each other after each mini-batch.

A mini-batch is what the training of a layer will take it for: each rank's own for BatchNorm, that of all ranks together
for SyncBatchNorm. Every rank ends with what one process alone would have computed, to the bit for BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.statistics import BatchMoments, Call, MiniBatch

T = TypeVar('T')
_FINE, _FINISHED, _NEW_CALLS, _FAILED = range(4)
_END = object()


class Ranks:
    """The ranks of the default process group, which all have to make the same calls.

    One collective per mini-batch, whatever the number of layers. The layers' order need not be known before: the ranks
    agree on it by two more collectives when one of them meets a new layer, as in the first round.

    Args:
        device: Where the layers are, and where the process group communicates.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.number = dist.get_world_size()
        self._channels: dict[Call, int] = {}  # in the common order

    def rounds(
        self, steps: Iterator[MiniBatch], layers: Mapping[str, BatchNorm], by_batch: bool,
    ) -> Iterator[list[MiniBatch]]:
        """Yield the ranks' mini-batches, round after round, until the last rank has no more.

        What fails on one rank fails on all. But where SyncBatchNorm normalizes by mini-batch, each of its calls is a
        collective: there a failed rank ends at once, and the others by the broken group; and every rank needs as many
        mini-batches as the others.

        Raises:
            Exception: What a step raised, on the rank that failed.
            RuntimeError: On the other ranks, with the failed rank's message.
        """
        finished = False
        while True:
            mini_batch, error = {}, None
            try:
                following = _END if finished else next(steps, _END)
                finished = following is _END
                mini_batch = {} if finished else following
            except Exception as failure:
                if by_batch and any(map(_is_joint, layers.values())):
                    raise
                error = failure
            everyone = self._exchange(mini_batch, error, finished)
            if everyone is None:
                return
            yield _with_joint(everyone, layers)

    def joint(self, layer: BatchNorm, moments: BatchMoments) -> BatchMoments:
        """Return the moments of the mini-batch that a layer normalizes by; for SyncBatchNorm a collective."""
        if not _is_joint(layer):
            return moments
        mine = torch.cat([moments.values, torch.full_like(moments.values[:1], moments.count)])
        return _joined([BatchMoments(part[:2], int(part[2, 0])) for part in self._gather(mine)])

    def together(self, make: Callable[[], T]) -> T:
        """Do something that may fail on one rank: then it fails on all.

        Args:
            make: What to do; it may not wait for other ranks.

        Raises:
            Exception: As in ``rounds``.
        """
        result = error = None
        try:
            result = make()
        except Exception as failure:
            error = failure
        if self._gather(torch.tensor([float(error is not None)], dtype=torch.float64, device=self.device)).any():
            self._raise(error)
        return result

    def largest(self, value: float) -> float:
        """Return the largest of all ranks' values."""
        return float(self._gather(torch.tensor([value], dtype=torch.float64, device=self.device)).max())

    def agree(self, tensors: list[Tensor]) -> None:
        """Give every rank the first one's tensors: the last bit may differ on other hardware."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.broadcast(flat, src=0)
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def _exchange(self, own: MiniBatch, error: Exception | None, finished: bool) -> list[MiniBatch] | None:
        """Return all ranks' mini-batches of a round, or ``None`` once every rank has finished."""
        while True:
            new = own.keys() - self._channels.keys()
            status = _FAILED if error else _NEW_CALLS if new else _FINISHED if finished else _FINE
            everyone = self._gather(self._pack(status, own))
            statuses, *counts = everyone[:, :1 + len(self._channels)].T.tolist()
            if _FAILED in statuses:
                self._raise(error)
            elif _NEW_CALLS in statuses:
                known = [{call: moments.values.shape[1] for call, moments in own.items()}] * self.number
                dist.all_gather_object(known, known[0])
                for calls in known:
                    self._channels.update((call, c) for call, c in calls.items() if call not in self._channels)
            elif set(statuses) == {_FINISHED}:
                return None
            else:
                values = everyone[:, 1 + len(self._channels):].split([2 * c for c in self._channels.values()], dim=1)
                return [{call: BatchMoments(part[rank].view(2, -1), int(count[rank]))
                         for call, count, part in zip(self._channels, counts, values, strict=True) if count[rank]}
                        for rank in range(self.number)]

    def _pack(self, status: int, own: MiniBatch) -> Tensor:
        """Return status, counts and values in one vector; zeros for a layer that was not called."""
        counts = torch.tensor([status, *(own[call].count if call in own else 0 for call in self._channels)])
        values = [own[call].values.flatten() if call in own else torch.zeros(2 * c, device=self.device)
                  for call, c in self._channels.items()]
        return torch.cat([counts.to(self.device, torch.float64, non_blocking=True), *values])

    def _gather(self, mine: Tensor) -> Tensor:
        everyone = [torch.empty_like(mine) for _ in range(self.number)]
        dist.all_gather(everyone, mine)
        return torch.stack(everyone)

    def _raise(self, error: Exception | None) -> None:
        messages: list[Any] = [f'{type(error).__name__}: {error}' if error else None] * self.number
        dist.all_gather_object(messages, messages[0])
        if error:
            raise error
        rank = next(rank for rank, message in enumerate(messages) if message)
        raise RuntimeError(f'Rank {rank} failed, so all ranks stop. Its error: {messages[rank]}')


def current_ranks(device: torch.device) -> Ranks | None:
    """Return the ranks of the default process group, ``None`` where this process is alone."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Ranks(device) if several else None


def _is_joint(layer: BatchNorm) -> bool:
    return isinstance(layer, nn.SyncBatchNorm)


def _with_joint(everyone: list[MiniBatch], layers: Mapping[str, BatchNorm]) -> list[MiniBatch]:
    """Put the ranks' parts of SyncBatchNorm's mini-batches together; the whole counts once."""
    calls = dict.fromkeys(call for own in everyone for call in own if _is_joint(layers[call[0]]))
    whole = {call: _joined([own[call] for own in everyone if call in own]) for call in calls}
    return [{call: moments for call, moments in own.items() if call not in whole} for own in everyone] + [whole]


def _joined(parts: list[BatchMoments]) -> BatchMoments:
    """Join the moments of a mini-batch's parts: weighted by counts, nothing cancels (Chan, Golub, LeVeque 1983)."""
    counts = torch.tensor([part.count for part in parts]).to(parts[0].values)[:, None]
    means, variances = torch.stack([part.values for part in parts], 1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    squares = ((counts - 1) * variances + counts * (means - mean) ** 2).sum(0)
    return BatchMoments(torch.stack([mean, squares / (total - 1).clamp(min=1)]), int(total))
