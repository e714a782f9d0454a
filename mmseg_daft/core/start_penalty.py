"""Two pulls of weights w towards those w⁰ that a training started from, each for any optimizer.

L2-SP (Li, Grandvalet, Davoine, ICML 2018) adds α/2 · ‖w - w⁰‖² to the loss: weight decay whose origin is the start.

Selective projection decay, SPD (Tian, Huang, Kira, NeurIPS 2024), acts after the optimizer's step, on one tensor at a
time, and only where the descent direction -g points back to the start: where it has a negative inner product with
w - w⁰. There it takes back a share λ of what the step to w̃ added to the distance all the same, by momentum or size,

    w ← w̃ - λ · r · (w̃ - w⁰),    r = max(0, (‖w̃ - w⁰‖ - ‖w - w⁰‖) / ‖w̃ - w⁰‖).

With λ = 1 such a step ends as far from the start as it began.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def add_l2_sp(parameters: Sequence[Tensor], start: Sequence[Tensor], strength: float) -> None:
    """Add the gradient α · (w - w⁰) of L2-SP's penalty; a parameter without gradient is left out, as by an optimizer.

    Args:
        parameters: The parameters w, before the optimizer's step.
        start: What they were at the start, w⁰.
        strength: α.
    """
    pulled = [(p.grad, p, origin) for p, origin in zip(parameters, start, strict=True) if p.grad is not None]
    if pulled:
        gradients, now, origins = map(list, zip(*pulled, strict=True))
        torch._foreach_add_(gradients, torch._foreach_sub(now, origins), alpha=strength)


class SelectiveProjection:
    """One step of selective projection decay: made before the optimizer's step, finished after it.

    Args:
        parameters: The parameters w, with their gradients.
        start: What they were at the start, w⁰.
    """

    @torch.no_grad()
    def __init__(self, parameters: Sequence[Tensor], start: Sequence[Tensor]) -> None:
        self.pulled = [(p, origin) for p, origin in zip(parameters, start, strict=True) if p.grad is not None]
        moved = [p - origin for p, origin in self.pulled]
        self.distances = [way.norm() for way in moved]
        self.back = [(p.grad * way).sum() > 0 for (p, _), way in zip(self.pulled, moved, strict=True)]

    @torch.no_grad()
    def finish(self, strength: float) -> None:
        """Take back the share λ, ``strength``, of what the step added to the distance, where -g points back."""
        for (p, origin), distance, back in zip(self.pulled, self.distances, self.back, strict=True):
            moved = p - origin
            now = moved.norm()
            ratio = ((now - distance) / now).clamp(min=0).nan_to_num(0)  # 0/0: it did not move
            p.sub_(moved.mul_(strength * ratio * back))
