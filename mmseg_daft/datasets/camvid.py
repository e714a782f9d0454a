"""CamVid, the Cambridge-driving Labeled Video Database, in its 11-class edition (mmseg issue 3601)."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid with the 11 classes of the SegNet tutorial; void is ignored.

    Labels are one-channel PNG files whose values are the classes, 0 (sky) to 10 (bicyclist), and 255
    for void. The original edition numbers void 11: map it to 255 before use.

    Source: Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; Badrinarayanan, Kendall,
    Cipolla, SegNet, TPAMI 2017.

    Args:
        img_suffix: The suffix of image files.
        seg_map_suffix: The suffix of label files.
        **kwargs: As of ``BaseSegDataset``: ``data_root``, ``data_prefix``, ``pipeline``, …
    """

    METAINFO = dict(
        classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence', 'car',
                 'pedestrian', 'bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192], [128, 128, 0],
                 [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]])

    def __init__(self, img_suffix: str = '.png', seg_map_suffix: str = '.png', **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=False, **kwargs)
