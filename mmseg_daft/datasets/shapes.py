"""The demo's data: scenes of textured shapes, drawn by ``demo/render.py``."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """Scenes of shapes on a textured ground, in the layout of Pascal VOC.

    ``ann_file`` lists the images of a split, as ``ImageSets/Segmentation/train.txt`` does.

    Args:
        ann_file: The list, relative to ``data_root``.
        **kwargs: As of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=('ground', 'disc', 'square', 'triangle', 'ring', 'cross'),
        palette=[[60, 60, 60], [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [240, 228, 66]])

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        super().__init__(
            ann_file=ann_file, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=False, **kwargs)
