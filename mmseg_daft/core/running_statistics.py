"""Means over mini-batches, of all layers at once, and how well they are known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_daft.core.batch_moments import join
from mmseg_daft.core.rank_exchange import Round
from mmseg_daft.core.stopping import StopRule


class RunningStatistics:
    """E_B[μ] and E_B[m/(m-1)·σ²] over the mini-batches so far, with their spread, channels side by side.

    A handful of operations on long vectors, where one layer after the other would take a thousand small ones
    for every mini-batch. Channels may be added at the end meanwhile.

    Attributes:
        num_batches: Mini-batches that counted, ``(channels,)``, float64.
        values: Mt and Σt so far, ``(2, channels)``, float64.
    """

    def __init__(self, device: torch.device) -> None:
        self.num_batches = torch.zeros(0, dtype=torch.float64, device=device)
        self.values = torch.zeros(2, 0, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.values)  # sums of squared deviations of the mini-batches' values

    def add(self, moments: Round, joint: Tensor) -> None:
        """Take the ranks' mini-batches into the means, one after the other.

        A mini-batch with fewer than two elements per channel does not count there: it has no variance.

        Args:
            moments: The ranks' moments of one round.
            joint: Channels where all ranks' mini-batches are one, bool of shape ``(channels,)``.
        """
        more = (0, len(joint) - len(self.num_batches))
        self.num_batches, self.values, self._squares = (
            F.pad(tensor, more) for tensor in (self.num_batches, self.values, self._squares))
        values = torch.stack([moments.mean, moments.unbiased_var], 1)
        counts = moments.count
        if len(counts) > 1:
            mean, var, total = join(moments.mean, moments.unbiased_var, counts)
            values = torch.where(joint, torch.stack([mean, var]), values)
            counts = torch.where(joint, F.pad(total[None], (0, 0, 0, len(counts) - 1)), counts)  # once
        for value, count in zip(values, counts, strict=True):
            seen = count > 1
            self.num_batches += seen
            change = torch.where(seen, value - self.values, 0)
            self.values += change / self.num_batches.clamp(min=1)
            self._squares += change * torch.where(seen, value - self.values, 0)

    def known(self, rule: StopRule, slots: Tensor, eps: Tensor) -> bool:
        """Whether all statistics are as well known as a rule wants them.

        Args:
            rule: The rule.
            slots: The number of channels of each slot.
            eps: ε of each channel.
        """
        n, scale = self.num_batches, self.values[1] + eps
        error = self._squares / (n * (n - 1)).clamp(min=1) / torch.stack([scale, scale**2])  # squared and relative
        error = torch.where(n > 1, error, torch.inf)
        slot = torch.arange(len(slots), device=slots.device).repeat_interleave(slots, output_size=len(n))
        mean_error = error.new_zeros(2, len(slots)).index_add_(1, slot, error) / slots
        return bool((mean_error <= rule.error**2).all() & (n >= rule.min_batches).all())
