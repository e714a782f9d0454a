"""Everything that is measured of one stage's features, for several fine-tuned models, in a stream of images.

What is kept: a few numbers an image and, whatever the number of images, the histograms over pixels and the sums that
CKA is made of (for C channels 8 C² bytes, and 16 C² for each method).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmseg_daft.analysis.pixel_histogram import COSINE_BINS, DISTANCE_BINS, PixelHistogram
from mmseg_daft.core.distortion import CrossMoments, debiased_cka, feature_distortion, linear_cka, pooled

VOID = 255


@dataclass
class ImageDistortion:
    """Distortion of one image's features.

    Attributes:
        image: The image's number in the data set.
        cosine_similarity: Of the map averaged over its pixels.
        l2_distance: Likewise.
        pixel_cosine: Mean of the cosine similarity over the pixels.
        class_pixels: By class, how many positions have it by the ground truth.
        class_cosine: By class, the mean cosine similarity of these.
    """

    image: int
    cosine_similarity: float
    l2_distance: float
    pixel_cosine: float
    class_pixels: dict[int, int] = field(default_factory=dict)
    class_cosine: dict[int, float] = field(default_factory=dict)


class MethodMeter:
    """What is measured of one method at one stage.

    Args:
        channels: Of the stage.
        classes: How many classes the ground truth has; 0 without.

    Attributes:
        images: Distortion of each image.
        pixel_cosine: Histogram over all pixels; ``pixel_distance`` likewise.
        class_cosine: By class, the histogram over its pixels; ``class_distance`` likewise.
    """

    def __init__(self, channels: int, classes: int) -> None:
        self.images: list[ImageDistortion] = []
        self.pixel_cosine, self.pixel_distance = PixelHistogram(COSINE_BINS), PixelHistogram(DISTANCE_BINS)
        self.class_cosine = [PixelHistogram(COSINE_BINS, 0) for _ in range(classes)]
        self.class_distance = [PixelHistogram(DISTANCE_BINS, 0) for _ in range(classes)]
        self.both, self.after = CrossMoments(channels), CrossMoments(channels)

    def histograms(self) -> list[PixelHistogram]:
        """All its histograms, in a fixed order."""
        return [self.pixel_cosine, self.pixel_distance, *self.class_cosine, *self.class_distance]

    def merge(self, other: MethodMeter) -> None:
        """Take in what another process has measured."""
        self.images = sorted(self.images + other.images, key=lambda image: image.image)
        for mine, its in zip(self.histograms(), other.histograms(), strict=True):
            mine.merge(its)
        self.both.merge(other.both)
        self.after.merge(other.after)


class DistortionMeter:
    """What is measured at one stage.

    Args:
        methods: Names of the fine-tuned models.
        classes: How many classes the ground truth has; 0 without.
    """

    def __init__(self, methods: Sequence[str], classes: int = 0) -> None:
        self.names, self.classes = tuple(methods), classes
        self.methods: dict[str, MethodMeter] = {}
        self.before: CrossMoments | None = None

    @torch.no_grad()
    def add(
        self, images: Sequence[int], before: Tensor, after: Mapping[str, Tensor],
        labels: Tensor | None = None, valid: Tensor | None = None,
    ) -> None:
        """Measure some more images.

        Args:
            images: Their numbers in the data set.
            before: The pre-trained model's map ``(N, C, H, W)``.
            after: Each fine-tuned model's.
            labels: Class ids at the map's positions ``(N, H, W)``, ``VOID`` where there is none; or ``None``.
            valid: Which positions are the image's and not padding, ``(N, H, W)``; ``None`` for all.
        """
        if self.before is None:
            self.before = CrossMoments(before.shape[1])
            self.methods = {name: MethodMeter(before.shape[1], self.classes) for name in self.names}
        mean = pooled(before, valid)
        self.before.add(mean, mean)
        for name, meter in self.methods.items():
            mean_after = pooled(after[name], valid)
            meter.both.add(mean, mean_after)
            meter.after.add(mean_after, mean_after)
            whole, pixels = feature_distortion(mean, mean_after), feature_distortion(before, after[name])
            for i, image in enumerate(images):
                inside = slice(None) if valid is None else valid[i]
                cosine, distance = pixels.cosine_similarity[i][inside], pixels.l2_distance[i][inside]
                meter.pixel_cosine.add(cosine, image)
                meter.pixel_distance.add(distance, image)
                record = ImageDistortion(image, float(whole.cosine_similarity[i]), float(whole.l2_distance[i]),
                                         float(cosine.mean()))
                if labels is not None:
                    self._add_classes(meter, record, labels[i][inside], cosine, distance)
                meter.images.append(record)

    def _add_classes(
        self, meter: MethodMeter, record: ImageDistortion, labels: Tensor, cosine: Tensor, distance: Tensor,
    ) -> None:
        for class_ in labels.unique().tolist():
            if class_ < self.classes:
                mine = labels == class_
                meter.class_cosine[class_].add(cosine[mine], record.image)
                meter.class_distance[class_].add(distance[mine], record.image)
                record.class_pixels[class_] = int(mine.sum())
                record.class_cosine[class_] = float(cosine[mine].mean())

    def merge(self, other: DistortionMeter) -> None:
        """Take in what another process has measured; it may have had no images."""
        if other.before is None:
            return
        if self.before is None:
            self.before, self.methods = other.before, other.methods
            return
        self.before.merge(other.before)
        for name, meter in self.methods.items():
            meter.merge(other.methods[name])

    def cka(self, method: str) -> float:
        """Linear CKA between the features before and after, averaged over pixels; over all images."""
        meter = self.methods[method]
        return linear_cka(meter.both, self.before, meter.after)

    def debiased_cka(self, method: str) -> float:
        """The debiased variant, which few images do not inflate."""
        meter = self.methods[method]
        return debiased_cka(meter.both, self.before, meter.after)
