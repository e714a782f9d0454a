"""Augmentations of the paper's recipes that MMSegmentation lacks: torchvision's color jitter, and random scale."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, Resize
from mmseg.registry import TRANSFORMS
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F


@TRANSFORMS.register_module()
class TorchvisionColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue of the image in random order, as the paper does on Cityscapes.

    Labels stay. mmseg's ``PhotoMetricDistortion`` is another augmentation: it adds to the brightness, and applies each
    change with probability 0.5. The factors come from NumPy's generator, as in mmseg's own transforms, so that
    MMEngine's worker seeds govern them.

    Args:
        brightness: The factor is drawn from [max(0, 1 - brightness), 1 + brightness], or from a range given as a pair.
        contrast: The same for contrast.
        saturation: The same for saturation.
        hue: The shift is drawn from [-hue, hue], at most 0.5, or from a range given as a pair.
    """

    def __init__(
        self,
        brightness: float | tuple[float, float] = 0,
        contrast: float | tuple[float, float] = 0,
        saturation: float | tuple[float, float] = 0,
        hue: float | tuple[float, float] = 0,
    ) -> None:
        self.jitter = ColorJitter(brightness, contrast, saturation, hue)

    def transform(self, results: dict) -> dict:
        """Jitter ``results['img']``, of shape (H, W, 3), uint8, in BGR."""
        image = torch.from_numpy(cv2.cvtColor(results['img'], cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
        changes = [
            (F.adjust_brightness, self.jitter.brightness),
            (F.adjust_contrast, self.jitter.contrast),
            (F.adjust_saturation, self.jitter.saturation),
            (F.adjust_hue, self.jitter.hue)]
        for i in np.random.permutation(len(changes)):
            change, bounds = changes[i]
            if bounds is not None:
                image = change(image, float(np.random.uniform(*bounds)))
        results['img'] = cv2.cvtColor(image.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.jitter})'


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resize image and label by one random factor of their own size, the "scale 0.5-2.0" of segmentation recipes.

    mmcv's ``RandomResize`` multiplies a fixed size by its factor: with ``scale=(500, 500)`` it enlarges a 250x166 image
    even at factor 1.

    Args:
        ratio_range: The smallest and the largest factor; the factor is drawn uniformly between them.

    Raises:
        ValueError: The range is empty or not positive.
    """

    def __init__(self, ratio_range: tuple[float, float]) -> None:
        low, high = ratio_range
        if not 0 < low <= high:
            raise ValueError(f'ratio_range={tuple(ratio_range)!r}: give two positive factors, the smaller one first.')
        self.ratio_range = (low, high)

    def transform(self, results: dict) -> dict:
        """Resize ``img`` (bilinear) and ``gt_seg_map`` (nearest)."""
        return Resize(scale_factor=float(np.random.uniform(*self.ratio_range)), keep_ratio=True)(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(ratio_range={self.ratio_range})'
