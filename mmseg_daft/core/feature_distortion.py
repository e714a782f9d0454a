"""Feature distortion: how far fine-tuning moved the features of an image.

Ha, Jeong, Lee (AAAI 2024), Figure 1: the features of the *test* images before and after fine-tuning,
their cosine similarity and their L2 distance. A feature is a stage's map averaged over its pixels (per
image), or the map at one position (per pixel). The less distortion, the more of what was pre-trained is
still there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CHANNELS_AT_ONCE = 64  # float64 copies of a whole map of 2048 channels would be larger than all else


class FeatureDistortion(NamedTuple):
    """Distortion of each feature, in float64.

    Attributes:
        cosine_similarity: From -1 to 1; 1 where the direction stayed.
        l2_distance: 0 where nothing moved.
    """

    cosine_similarity: Tensor
    l2_distance: Tensor


@torch.no_grad()
def feature_distortion(before: Tensor, after: Tensor) -> FeatureDistortion:
    """Compare features before and after fine-tuning.

    Args:
        before: ``(N, C)``, a feature an image, or ``(N, C, H, W)``, a feature a position; of the pre-trained model.
        after: Likewise of the fine-tuned model, of the same images in the same order.

    Returns:
        Both measures, ``(N,)`` or ``(N, H, W)``. The similarity of two features of length zero is 1, as nothing
        moved; that of one with another is 0, as it has no direction.

    Raises:
        ValueError: The shapes differ, or are not of these kinds.
    """
    if before.shape != after.shape or before.dim() not in (2, 4):
        raise ValueError(f'Features before and after must both be (N, C) or (N, C, H, W), not {tuple(before.shape)} '
                         f'and {tuple(after.shape)}: these are not two states of one model on the same images.')
    shape = (before.shape[0], *before.shape[2:])
    dots, befores, afters, squares = torch.zeros(4, *shape, dtype=torch.float64, device=before.device)
    for a, b in zip(before.split(_CHANNELS_AT_ONCE, 1), after.split(_CHANNELS_AT_ONCE, 1), strict=True):
        a, b = a.double(), b.double()
        dots += (a * b).sum(1)
        befores += a.square().sum(1)
        afters += b.square().sum(1)
        squares += (b - a).square().sum(1)
    lengths = (befores * afters).sqrt()
    without = torch.where((befores == 0) & (afters == 0), 1.0, 0.0).to(dots)
    cosine = torch.where(lengths == 0, without, dots / lengths.clamp(min=torch.finfo(torch.float64).tiny))
    return FeatureDistortion(cosine.clamp(-1, 1), squares.sqrt())


@torch.no_grad()
def pooled(features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average a feature map ``(N, C, H, W)`` over its pixels: ``(N, C)``, in float64.

    Args:
        features: The map.
        valid: Which positions count, ``(N, H, W)``; ``None`` for all.
    """
    if valid is None:
        return features.mean(dim=(2, 3), dtype=torch.float64)
    sums = torch.cat([(part.double() * valid[:, None]).sum((2, 3)) for part in features.split(_CHANNELS_AT_ONCE, 1)], 1)
    return sums / valid.sum((1, 2))[:, None]
