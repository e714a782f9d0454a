"""Torchvision's colour jitter as an mmseg transform: the paper's Cityscapes augmentation."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F


@TRANSFORMS.register_module()
class TorchvisionColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue of the image, in random order; labels stay.

    mmseg's ``PhotoMetricDistortion`` is another augmentation: it adds to the brightness, and applies each
    change with probability 0.5. The factors are drawn from NumPy's generator, as mmseg's own
    transforms do, so that mmengine's worker seeds govern them.

    Required and modified key: ``img``, ``(H, W, 3)`` uint8 in BGR.

    Args:
        brightness: Drawn from [max(0, 1 - brightness), 1 + brightness], or from a range given as a pair.
        contrast: Likewise.
        saturation: Likewise.
        hue: Drawn from [-hue, hue], at most 0.5.
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
        """Jitter ``results['img']``."""
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
