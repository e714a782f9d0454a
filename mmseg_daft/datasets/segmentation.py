"""Data sets that MMSegmentation lacks: CamVid (mmseg issue 3601) and the demo's shapes."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid, the Cambridge-driving Labeled Video Database, with the 11 classes of the SegNet tutorial.

    Labels are one-channel PNG files. Their values are the classes, 0 (sky) to 10 (bicyclist), and 255 for void, which
    is ignored. The original edition numbers void 11: map it to 255 before use.

    Source: Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; Badrinarayanan, Kendall, Cipolla, SegNet,
    TPAMI 2017.

    Args:
        img_suffix: The suffix of image files.
        seg_map_suffix: The suffix of label files.
        **kwargs: Passed to ``BaseSegDataset``: ``data_root``, ``data_prefix``, ``pipeline``, …
    """

    METAINFO = dict(
        classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence', 'car', 'pedestrian',
                 'bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192], [128, 128, 0],
                 [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]])

    def __init__(self, img_suffix: str = '.png', seg_map_suffix: str = '.png', **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=False, **kwargs)


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """The demo's scenes of shapes on a textured ground (``demo/render.py`` draws them), in the layout of Pascal VOC.

    Args:
        ann_file: The list of a split's images, relative to ``data_root``, like ``ImageSets/Segmentation/train.txt``.
        **kwargs: Passed to ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=('ground', 'disc', 'square', 'triangle', 'ring', 'cross'),
        palette=[[60, 60, 60], [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [240, 228, 66]])

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        super().__init__(ann_file=ann_file, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=False, **kwargs)
