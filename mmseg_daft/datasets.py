"""Data sets that MMSegmentation lacks, CamVid (its issue 3601), IDD, the demo's shapes; two transforms of recipes."""

from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, Resize
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid, the Cambridge-driving Labeled Video Database, with the 11 classes of the SegNet tutorial.

    Labels are one-channel PNG files. Their values are the classes, 0 (sky) to 10 (bicyclist), and 255 for void, which
    is ignored. The original edition numbers void 11: map it to 255 before use.

    Source: Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; Badrinarayanan, Kendall, Cipolla, SegNet,
    TPAMI 2017. Arguments are those of ``BaseSegDataset``: ``data_root``, ``data_prefix``, ``pipeline``, …
    """

    METAINFO = dict(
        classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence', 'car', 'pedestrian',
                 'bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192], [128, 128, 0],
                 [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]])

    def __init__(self, img_suffix: str = '.png', seg_map_suffix: str = '.png', **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=False, **kwargs)


@DATASETS.register_module()
class IDDDataset(BaseSegDataset):
    """IDD, the India Driving Dataset, with the 26 classes of its segmentation benchmark (``level3Id``).

    Labels are the files that its authors' ``createLabels.py --id-type level3Id`` writes (AutoNUE/public-code). A class
    has the name of its main part: *drivable fallback* holds parking, *non-drivable fallback* rail tracks, *person*
    animals, *vehicle fallback* caravans, trailers and trains, *bridge* tunnels, *sky* the rest of the background.

    Source: Varma, Subramanian, Namboodiri, Chandraker, Jawahar, WACV 2019. Arguments are those of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=('road', 'drivable fallback', 'sidewalk', 'non-drivable fallback', 'person', 'rider', 'motorcycle',
                 'bicycle', 'autorickshaw', 'car', 'truck', 'bus', 'vehicle fallback', 'curb', 'wall', 'fence',
                 'guard rail', 'billboard', 'traffic sign', 'traffic light', 'pole', 'obs-str-bar-fallback', 'building',
                 'bridge', 'vegetation', 'sky'),
        palette=[[128, 64, 128], [81, 0, 81], [244, 35, 232], [152, 251, 152], [220, 20, 60], [255, 0, 0], [0, 0, 230],
                 [119, 11, 32], [255, 204, 54], [0, 0, 142], [0, 0, 70], [0, 60, 100], [136, 143, 153], [220, 190, 40],
                 [102, 102, 156], [190, 153, 153], [180, 165, 180], [174, 64, 67], [220, 220, 0], [250, 170, 30],
                 [153, 153, 153], [169, 187, 214], [70, 70, 70], [150, 100, 100], [107, 142, 35], [70, 130, 180]])

    def __init__(
        self, img_suffix: str = '_leftImg8bit.png', seg_map_suffix: str = '_gtFine_labellevel3Ids.png', **kwargs: Any,
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=False, **kwargs)


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """The demo's scenes of shapes on a textured ground (``demo/render.py`` draws them), in the layout of Pascal VOC.

    ``ann_file`` is the list of a split's images, relative to ``data_root``: ``ImageSets/Segmentation/train.txt``.
    """

    METAINFO = dict(
        classes=('ground', 'disc', 'square', 'triangle', 'ring', 'cross'),
        palette=[[60, 60, 60], [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [240, 228, 66]])

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        super().__init__(ann_file=ann_file, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=False, **kwargs)


@TRANSFORMS.register_module()
class TorchvisionColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue of the image in random order, as the paper does on Cityscapes.

    Labels stay. mmseg's ``PhotoMetricDistortion`` is another augmentation: it adds to the brightness, and applies each
    change with probability 0.5. The factors come from NumPy's generator, as in mmseg's own transforms, so that
    MMEngine's worker seeds govern them.

    Args:
        brightness, contrast, saturation: The factor of each is drawn from [max(0, 1 - x), 1 + x], or from a range given
            as a pair.
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

    The factor is drawn uniformly from ``ratio_range``. mmcv's ``RandomResize`` multiplies a fixed size by its factor:
    with ``scale=(500, 500)`` it enlarges a 250x166 image even at factor 1.

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
