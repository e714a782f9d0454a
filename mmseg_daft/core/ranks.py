"""What the ranks of a job tell each other after each mini-batch of a pass: moments, and whether all went well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mmseg_daft.core.moments import BatchMoments, mean_and_var

T = TypeVar('T')
Slot = tuple[str, int]
"""A call of a layer within a forward pass: the layer's name, and how often it was called before."""

_FINE, _FINISHED, _NEW_SLOTS, _FAILED = range(4)


class Round(NamedTuple):
    """Every rank's mini-batch of one round, its slots side by side.

    Attributes:
        mean: ``(ranks, channels of all slots)``, float64.
        unbiased_var: Likewise.
        count: Elements per channel, likewise; 0 where a rank has nothing for a slot.
    """

    mean: Tensor
    unbiased_var: Tensor
    count: Tensor


class RankExchange:
    """One collective a mini-batch, whatever the number of layers; bit-identical results on every rank.

    The slots and their order need not be known before: ranks agree on them, by two more collectives,
    when one of them meets a new one, as in the first round. Without a process group nothing is sent.

    Args:
        device: Where the layers are, and the process group communicates.

    Attributes:
        slots: The number of channels of each slot, in the common order.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.slots: dict[Slot, int] = {}

    def share(
        self, calls: Iterable[tuple[str, BatchMoments]], error: Exception | None = None, finished: bool = False,
    ) -> Round | None:
        """Return all ranks' moments of a round, or ``None`` once every rank has finished.

        Every rank calls this as often as the others, also one that has finished or failed.

        Args:
            calls: The layers that this rank's mini-batch ran through, in order.
            error: What went wrong on this rank.
            finished: This rank has no further mini-batch.

        Raises:
            Exception: ``error``, on the rank that failed.
            RuntimeError: On the others, with the failed rank's message.
        """
        own = _numbered(calls)
        while True:
            new = own.keys() - self.slots.keys()
            status = _FAILED if error else _NEW_SLOTS if new else _FINISHED if finished else _FINE
            everyone = self._gather(self._pack(status, own))
            statuses = everyone[:, 0].tolist() if self.ranks > 1 else [status]
            if _FAILED in statuses:
                self._raise(error)
            elif _NEW_SLOTS in statuses:
                self._agree_on_slots(own)
            elif set(statuses) == {_FINISHED}:
                return None
            else:
                return self._unpack(everyone[:, 1:])

    def _pack(self, status: int, own: Mapping[Slot, BatchMoments]) -> Tensor:
        """Return status, counts, means and variances in one vector; zeros where there is nothing."""
        counts = torch.tensor([status, *(own[slot].count if slot in own else 0 for slot in self.slots)])
        counts = counts.to(self.device, torch.float64, non_blocking=True)
        if not self.slots:
            return counts
        sums = torch.cat([
            own[slot].sums.to(self.device) if slot in own else torch.zeros(3, c, device=self.device)
            for slot, c in self.slots.items()], 1)
        mean, var = mean_and_var(sums.double(), self._per_channel(counts[1:]))
        return torch.cat([counts, mean, var])

    def _gather(self, mine: Tensor) -> Tensor:
        if self.ranks == 1:
            return mine[None]
        everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(everyone, mine)
        return torch.stack(everyone)

    def _unpack(self, everyone: Tensor) -> Round:
        total = sum(self.slots.values())
        counts, mean, var = everyone.split([len(self.slots), total, total], dim=1)
        return Round(mean, var, self._per_channel(counts))

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.channels(), dim=-1, output_size=sum(self.slots.values()))

    def channels(self) -> Tensor:
        """Return the number of channels of each slot."""
        return torch.tensor(list(self.slots.values()), dtype=torch.long).to(self.device, non_blocking=True)

    def _agree_on_slots(self, own: Mapping[Slot, BatchMoments]) -> None:
        everyone = [{slot: moments.sums.shape[1] for slot, moments in own.items()}]
        if self.ranks > 1:
            everyone *= self.ranks
            dist.all_gather_object(everyone, everyone[0])
        for slots in everyone:
            self.slots.update((slot, c) for slot, c in slots.items() if slot not in self.slots)

    def _raise(self, error: Exception | None) -> None:
        messages = [f'{type(error).__name__}: {error}' if error else None]
        if self.ranks > 1:
            messages *= self.ranks
            dist.all_gather_object(messages, messages[0])
        if error:
            raise error
        rank = next(rank for rank, message in enumerate(messages) if message)
        raise RuntimeError(f'Rank {rank} failed, so all ranks stop. Its error: {messages[rank]}')


def together(make: Callable[[], T], device: torch.device) -> T:
    """Do something on every rank that may fail on one: then it fails on all, as in ``RankExchange.share``.

    Args:
        make: What to do. Other ranks may not be waited for in it.
        device: Where the process group communicates.
    """
    result = error = None
    try:
        result = make()
    except Exception as failure:
        error = failure
    RankExchange(device).share((), error)
    return result


def _numbered(calls: Iterable[tuple[str, BatchMoments]]) -> dict[Slot, BatchMoments]:
    slots: dict[Slot, BatchMoments] = {}
    times: Counter[str] = Counter()
    for name, moments in calls:
        slots[name, times[name]] = moments
        times[name] += 1
    return slots
