"""Random scale relative to each image's own size, as the segmentation recipes mean "scale 0.5-2.0"."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resize image and label by one random factor.

    mmcv's ``RandomResize`` draws a factor too, but of a fixed size: a 250x166 image with
    ``scale=(500, 500)`` would be enlarged even at factor 1.

    Args:
        ratio_range: The smallest and the largest factor; drawn uniformly between them.

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
