"""A pass over several ranks: what they exchange after each mini-batch.

A mini-batch is what the layer will normalize by in training: each rank's own for BatchNorm, that of all ranks together
for SyncBatchNorm. Every rank ends with what one process alone would have computed, to the bit for BatchNorm.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.statistics import BatchMoments, Call, Moments

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
        self.world_size = dist.get_world_size()
        self._channels: dict[Call, int] = {}  # in the common order

    def rounds(
        self, observed: Iterator[Moments], layers: Mapping[str, BatchNorm], by_batch: bool,
    ) -> Iterator[list[Moments]]:
        """Yield the moments of all ranks' mini-batches, round after round, until the last rank has no more.

        What fails on one rank fails on all. But where SyncBatchNorm normalizes by mini-batch, each of its calls is a
        collective: there a failed rank ends at once, and the others by the broken group; and every rank needs as many
        mini-batches as the others.

        Raises:
            Exception: What ``observed`` raised, on the rank that failed.
            RuntimeError: On the other ranks, with the failed rank's message.
        """
        finished = False
        while True:
            own, error = {}, None
            try:
                following = _END if finished else next(observed, _END)
                finished = following is _END
                own = {} if finished else following
            except Exception as failure:
                if by_batch and any(map(_is_joint, layers.values())):
                    raise
                error = failure
            everyone = self._exchange(own, error, finished)
            if everyone is None:
                return
            yield self._unpack(everyone, layers)

    def joint(self, layer: BatchNorm, moments: BatchMoments) -> BatchMoments:
        """Return the moments of the mini-batch that a layer normalizes by; for SyncBatchNorm a collective."""
        if not _is_joint(layer):
            return moments
        everyone = self._gather(torch.cat([moments.values, torch.full_like(moments.values[:1], moments.count)]))
        return BatchMoments(_joined(everyone[:, :2], everyone[:, 2]), int(everyone[:, 2, 0].sum()))

    def together(self, make: Callable[[], T]) -> T:
        """Call ``make`` on every rank; if it fails on one, raise on all. It may not wait for other ranks.

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
        """Overwrite the tensors with rank 0's: the last bit may differ on other hardware."""
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.broadcast(flat, src=0)
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def _exchange(self, own: Moments, error: Exception | None, finished: bool) -> Tensor | None:
        """Return what all ranks packed in a round, or ``None`` once every rank has finished."""
        while True:
            new = own.keys() - self._channels.keys()
            status = _FAILED if error else _NEW_CALLS if new else _FINISHED if finished else _FINE
            everyone = self._gather(self._pack(status, own))
            statuses = everyone[:, 0].tolist()
            if _FAILED in statuses:
                self._raise(error)
            elif _NEW_CALLS in statuses:
                known = [{call: moments.values.shape[1] for call, moments in own.items()}] * self.world_size
                dist.all_gather_object(known, known[0])
                for calls in known:
                    self._channels.update((call, c) for call, c in calls.items() if call not in self._channels)
            elif set(statuses) == {_FINISHED}:
                return None
            else:
                return everyone

    def _pack(self, status: int, own: Moments) -> Tensor:
        """Return status, counts, all means and all variances in one vector; zeros for a layer that was not called."""
        counts = torch.tensor([status, *(own[call].count if call in own else 0 for call in self._channels)])
        values = [own[call].values if call in own else torch.zeros(2, c, dtype=torch.float64, device=self.device)
                  for call, c in self._channels.items()]
        counts = counts.to(self.device, torch.float64, non_blocking=True)
        return torch.cat([counts, torch.cat(values, 1).flatten()]) if values else counts

    def _unpack(self, everyone: Tensor, layers: Mapping[str, BatchNorm]) -> list[Moments]:
        """Return each rank's moments, and those of SyncBatchNorm's mini-batches, which count once, at the end."""
        calls, sizes = list(self._channels), list(self._channels.values())
        counts = everyone[:, 1:1 + len(calls)]
        values = everyone[:, 1 + len(calls):].view(self.world_size, 2, sum(sizes))
        of_calls = list(zip(calls, counts.T.tolist(), values.split(sizes, dim=2), strict=True))
        joint = {call for call in calls if _is_joint(layers[call[0]])}
        result = [{call: BatchMoments(part[rank], int(n[rank])) for call, n, part in of_calls
                   if n[rank] and call not in joint} for rank in range(self.world_size)]
        if joint:
            channels = torch.tensor(sizes).to(self.device, non_blocking=True)
            whole = _joined(values, counts.repeat_interleave(channels, dim=1, output_size=sum(sizes))).split(sizes, 1)
            result.append({call: BatchMoments(part, int(sum(n)))
                           for (call, n, _), part in zip(of_calls, whole, strict=True) if call in joint and any(n)})
        return result

    def _gather(self, mine: Tensor) -> Tensor:
        everyone = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(everyone, mine)
        return torch.stack(everyone)

    def _raise(self, error: Exception | None) -> None:
        messages: list[Any] = [f'{type(error).__name__}: {error}' if error else None] * self.world_size
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


def _joined(values: Tensor, counts: Tensor) -> Tensor:
    """Join the moments of a mini-batch's parts: weighted by counts, nothing cancels (Chan, Golub, LeVeque 1983).

    Args:
        values: Means and unbiased variances of each part, ``(parts, 2, C)``.
        counts: Elements per channel of each part, ``(parts, C)``.
    """
    means, variances = values[:, 0], values[:, 1]
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total.clamp(min=1)
    squares = ((counts - 1).clamp(min=0) * variances + counts * (means - mean) ** 2).sum(0)
    return torch.stack([mean, squares / (total - 1).clamp(min=1)])
