"""Feature distortion: how far fine-tuning moved the features of an image.

Ha, Jeong, Lee (AAAI 2024), Figure 1: the features of the *test* images before and after fine-tuning,
their cosine similarity and their L2 distance. A feature is the backbone's last feature map, averaged
over its pixels. The less distortion, the more of what was pre-trained is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class FeatureDistortion(NamedTuple):
    """Distortion of each image's feature.

    Attributes:
        cosine_similarity: Of shape ``(N,)``, at most 1; 1 where the direction stayed.
        l2_distance: Of shape ``(N,)``; 0 where nothing moved.
    """

    cosine_similarity: Tensor
    l2_distance: Tensor


def feature_distortion(before: Tensor, after: Tensor) -> FeatureDistortion:
    """Compare features before and after fine-tuning, image by image.

    Args:
        before: ``(N, C)``, of the pre-trained model.
        after: ``(N, C)``, of the fine-tuned model, of the same images in the same order.

    Returns:
        Both measures in float64. The similarity of a feature of length zero is 0, as it has no direction.

    Raises:
        ValueError: The shapes are not two equal ``(N, C)``.
    """
    if before.shape != after.shape or before.dim() != 2:
        raise ValueError(f'Features before and after must both be (N, C), not {tuple(before.shape)} and '
                         f'{tuple(after.shape)}: pool feature maps first, and keep the order of the images.')
    before, after = before.double(), after.double()
    lengths = before.norm(dim=1) * after.norm(dim=1)
    dots = (before * after).sum(1)
    cosine = torch.where(lengths > 0, dots / lengths.clamp(min=torch.finfo(torch.float64).tiny), 0.0).clamp(-1, 1)
    return FeatureDistortion(cosine, (after - before).norm(dim=1))


def pooled(features: Tensor) -> Tensor:
    """Average a feature map ``(N, C, H, W)`` over its pixels: ``(N, C)``, in float64."""
    return features.double().mean(dim=(2, 3))


@torch.no_grad()
def measure_distortion(
    batches: Iterable[Any], before: Callable[[Any], Tensor], after: Callable[[Any], Tensor]
) -> FeatureDistortion:
    """Run two models over the test images and compare their features, a batch at a time.

    Args:
        batches: The test images, in any form that both functions take.
        before: Returns the pre-trained model's last feature map ``(N, C, H, W)`` of a batch. The
            model has to be in test mode.
        after: Likewise of the fine-tuned model.

    Returns:
        The distortion of every image, in order.

    Raises:
        ValueError: There are no batches, or the two models' features differ in shape.
    """
    parts = [feature_distortion(pooled(before(batch)), pooled(after(batch))) for batch in batches]
    if not parts:
        raise ValueError('There are no test images to measure the distortion on.')
    return FeatureDistortion(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))
