"""What an analysis measures and finds: what tables, figures and the CSV file are made of.

A ``DistortionMeter`` measures how far a method moved one stage's features, in a stream of images. What is kept does not
grow with the images but by a few numbers for each: histograms over pixels, and the sums that CKA is made of (24 C²
bytes for C channels).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmseg_daft.core import distortion
from mmseg_daft.core.shift import AverageShift

VOID = 255  # the label of pixels without ground truth
COSINE_EDGES = np.linspace(-1, 1, 4001)  # bins of 0.0005
DISTANCE_EDGES = np.geomspace(1e-6, 1e6, 2764)  # bins of 1 %
MIN_PIXELS = 4  # positions of a class that an image needs to stand for it, unless all are: fewer are chance
RESAMPLES, REPLICATES = 2000, 100  # of the bootstrap over images: of their values, and of histograms in a stream


class Median(NamedTuple):
    """A median with its 95 % bootstrap interval: NaN for fewer than five values, which say nothing of their spread."""

    value: float
    low: float = np.nan
    high: float = np.nan


def median_with_interval(values: Sequence[float]) -> Median:
    """Return the median and its percentile bootstrap interval (Efron and Tibshirani 1993), the same in every call."""
    data = np.asarray(values, np.float64)
    if len(data) < 5:
        return Median(float(np.median(data)))
    rng = np.random.default_rng(0)
    parts = [np.median(data[rng.integers(0, len(data), (100, len(data)))], axis=1) for _ in range(RESAMPLES // 100)]
    return Median(float(np.median(data)), *map(float, np.quantile(np.concatenate(parts), [0.025, 0.975])))


def count(values: Tensor, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count values between rising edges, as NumPy does; those below all bins come first, those above them last."""
    flat = values.detach().cpu().double().flatten().numpy()
    index = np.searchsorted(edges, flat, side='right')
    index[flat == edges[-1]] -= 1
    return np.bincount(index, minlength=len(edges) + 1)


class PixelHistogram:
    """Count a measure over all pixels of all images: quantiles are right to a bin's width.

    An interval for a median has to resample images, not pixels, which depend on their neighbors: the Poisson bootstrap
    (Hanley and MacGibbon, 2006) does so in a stream, each image entering each replicate a random number of times.
    """

    def __init__(self, edges: NDArray[np.float64], replicates: int = REPLICATES) -> None:
        self.edges = edges
        self.images = 0
        self.least, self.largest = np.inf, -np.inf
        self.counts = np.zeros(len(edges) + 1, np.int64)
        self.replicates = np.zeros((replicates, len(edges) + 1), np.int64)

    @property
    def bounds(self) -> NDArray[np.float64]:
        """The bounds of all that is counted: the edges between the least and the largest value."""
        return np.concatenate([[self.least], self.edges, [self.largest]])

    def add(self, values: Tensor, image: int) -> None:
        """Count one image's pixels; ``image`` is its number, which decides its part in the replicates."""
        if not values.numel():
            return
        counts = count(values, self.edges)
        self.images += 1
        self.least = min(self.least, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        self.counts += counts
        if len(self.replicates):
            times = np.random.default_rng([0, image]).poisson(1.0, len(self.replicates))
            hit = counts.nonzero()[0]
            self.replicates[:, hit] += times[:, None] * counts[hit]

    def merge(self, other: PixelHistogram) -> None:
        """Add what another process has counted."""
        self.images += other.images
        self.least, self.largest = min(self.least, other.least), max(self.largest, other.largest)
        self.counts += other.counts
        self.replicates += other.replicates

    def median(self) -> Median:
        """Return the median and its bootstrap interval over images."""
        values = [self.quantile(0.5, counts) for counts in self.replicates if counts.any()]
        if self.images < 5 or not values:
            return Median(self.quantile(0.5))
        return Median(self.quantile(0.5), *map(float, np.quantile(values, [0.025, 0.975])))

    def quantile(self, share: float, counts: NDArray[np.int64] | None = None) -> float:
        """Return a quantile of what was counted, or of a replicate's ``counts``; NaN where nothing was."""
        counts = self.counts if counts is None else counts
        cumulative = counts.cumsum()
        if not cumulative[-1]:
            return np.nan
        target = share * cumulative[-1]
        bin_ = max(int(np.searchsorted(cumulative, target)), int(counts.nonzero()[0][0]))
        low, high = self.bounds[bin_:bin_ + 2]
        part = (target - (cumulative[bin_] - counts[bin_])) / counts[bin_]
        return float(np.clip(low + part * (high - low), self.least, self.largest))


@dataclass
class ImageDistortion:
    """Distortion of one image's features: of the map averaged over its pixels, and the mean over pixels.

    By class of the ground truth, how many positions have it, and their mean cosine similarity.
    """

    number: int
    cosine_similarity: float
    l2_distance: float
    pixel_cosine: float
    class_pixels: dict[int, int] = field(default_factory=dict)
    class_cosine: dict[int, float] = field(default_factory=dict)


class DistortionMeter:
    """Measure how far one method moved one stage's features: of each image, over all pixels, and over each class's."""

    _AT_ONCE = 32  # mini-batches whose pooled features wait: to add them to the moments is a pass over (C, C) sums

    def __init__(self, classes: int = 0) -> None:
        self.images: list[ImageDistortion] = []
        self.pixel_cosine, self.pixel_distance = PixelHistogram(COSINE_EDGES), PixelHistogram(DISTANCE_EDGES)
        self.class_cosine = [PixelHistogram(COSINE_EDGES, 0) for _ in range(classes)]
        self.class_distance = [PixelHistogram(DISTANCE_EDGES, 0) for _ in range(classes)]
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._moments: list[distortion.CrossMoments] = []

    @torch.no_grad()
    def add(
        self, images: Sequence[int], before: Tensor, after: Tensor, labels: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        """Measure some more images.

        Args:
            images: Their numbers in the data set.
            before: The pre-trained model's map ``(N, C, H, W)``; ``after`` is the fine-tuned model's.
            labels: Class ids at the map's positions ``(N, H, W)``, ``VOID`` where there is none; or ``None``.
            valid: Which positions are the image's and not padding, ``(N, H, W)``; ``None`` for all.
        """
        x, y = distortion.pooled(before, valid), distortion.pooled(after, valid)
        self._waiting.append((x.cpu(), y.cpu()))
        if len(self._waiting) == self._AT_ONCE:
            self.moments()
        whole, pixels = distortion.feature_distortion(x, y), distortion.feature_distortion(before, after)
        for i, image in enumerate(images):
            inside = slice(None) if valid is None else valid[i]
            cosine, distance = pixels.cosine_similarity[i][inside], pixels.l2_distance[i][inside]
            self.pixel_cosine.add(cosine, image)
            self.pixel_distance.add(distance, image)
            record = ImageDistortion(
                image, float(whole.cosine_similarity[i]), float(whole.l2_distance[i]), float(cosine.mean()))
            self.images.append(record)
            for class_ in labels[i][inside].unique().tolist() if labels is not None else ():
                if class_ < len(self.class_cosine):
                    mine = labels[i][inside] == class_
                    self.class_cosine[class_].add(cosine[mine], image)
                    self.class_distance[class_].add(distance[mine], image)
                    record.class_pixels[class_] = int(mine.sum())
                    record.class_cosine[class_] = float(cosine[mine].mean())

    def moments(self) -> list[distortion.CrossMoments]:
        """Return those for CKA: of features before with those after, before with themselves, after with themselves."""
        if self._waiting:
            x, y = map(torch.cat, zip(*self._waiting, strict=True))
            self._waiting.clear()
            self._moments = self._moments or [distortion.CrossMoments(x.shape[1]) for _ in range(3)]
            for moments, pair in zip(self._moments, ((x, y), (x, x), (y, y)), strict=True):
                moments.add(*pair)
        return self._moments

    def histograms(self) -> list[PixelHistogram]:
        """Return all histograms, in a fixed order."""
        return [self.pixel_cosine, self.pixel_distance, *self.class_cosine, *self.class_distance]

    def merge(self, other: DistortionMeter) -> None:
        """Add what another process has measured; either may have had no images."""
        self.images = sorted(self.images + other.images, key=lambda image: image.number)
        for mine, its in zip(self.histograms(), other.histograms(), strict=True):
            mine.merge(its)
        for mine, its in zip(self.moments(), other.moments(), strict=False):
            mine.merge(its)
        self._moments = self._moments or other.moments()

    def cka(self) -> float:
        """Return linear CKA between the features before and after, averaged over pixels; over all images."""
        return distortion.linear_cka(*self.moments())

    def debiased_cka(self) -> float:
        """Return the debiased variant, which few images do not inflate."""
        return distortion.debiased_cka(*self.moments())


@dataclass(frozen=True)
class MethodChanges:
    """How a method changed the parameters, in the order of the network.

    Relative changes (Eq. 6) of tensors, drift of the statistics of BN layers, and in words what ``W`` is.
    """

    changes: Mapping[distortion.LayerTensor, float]
    drift: Mapping[str, AverageShift]
    reference: str

    def of_kind(self, kind: str) -> dict[distortion.LayerTensor, float]:
        """Return the changes of one of ``KINDS``, in the order of the network."""
        return {tensor: change for tensor, change in self.changes.items() if tensor.kind == kind}


def choose(
    images: Sequence[ImageDistortion], classes: int, which: str, without_classes: int = 4,
) -> list[tuple[ImageDistortion, int | None]]:
    """Choose the image of each class that is ``'least'`` or ``'most'`` distorted, each with the class it stands for.

    Without ground truth, there being no classes, choose the first ``without_classes`` of all images.
    """
    if not classes:
        order = sorted(images, key=lambda i: (i.cosine_similarity, i.number), reverse=which == 'least')
        return [(image, None) for image in order[:without_classes]]
    pick = {'least': max, 'most': min}[which]
    shown = {class_: [i for i in images if i.class_pixels.get(class_, 0) >= MIN_PIXELS or [*i.class_pixels] == [class_]]
             for class_ in range(classes)}
    return [(pick(mine, key=lambda i: (i.class_cosine[class_], -i.number)), class_)
            for class_, mine in shown.items() if mine]


@dataclass(frozen=True)
class Scene:
    """An image as a row of a sheet shows it, with a title beside it.

    Attributes:
        image: ``(H, W, 3)`` in RGB.
        truth: Class ids ``(H, W)``, or ``None`` without ground truth; ids outside the palette are drawn white.
        predictions: Class ids ``(H, W)`` by column title, the same titles in every row.
        heat: 1 - cosine similarity at the stage's positions ``(h, w)``.
        class_: The class whose pixels are outlined in the image.
    """

    title: str
    image: NDArray[np.uint8]
    truth: NDArray[np.integer] | None
    predictions: Mapping[str, NDArray[np.integer]]
    heat: NDArray[np.floating] | None = None
    class_: int | None = None


@dataclass(frozen=True)
class Findings:
    """All that an analysis found, by the names of methods, stages, images and, with ground truth, classes.

    Attributes:
        stages: By stage, then by method, what was measured of the features.
        changes: By method, of the parameters.
        palette: RGB of each class, 0 to 255.
        notes: What a reader has to know of data and models; first of the data, then of each model.
        sheets: By method, and ``'least'`` or ``'most'`` distorted, the rows of a contact sheet.
    """

    methods: Sequence[str]
    stages: Mapping[str, Mapping[str, DistortionMeter]]
    changes: Mapping[str, MethodChanges]
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    images: Sequence[str]
    notes: Sequence[str]
    sheets: Mapping[tuple[str, str], Sequence[Scene]]

    def summary(self) -> list[dict[str, object]]:
        """Return one row for each stage and method: medians over images and pixels, CKA."""
        return [{'method': method, 'stage': stage, 'images': len(meter.images),
                 'cosine': median_with_interval([image.cosine_similarity for image in meter.images]),
                 'l2': median_with_interval([image.l2_distance for image in meter.images]),
                 'pixel_cosine': meter.pixel_cosine.median(), 'pixel_l2': meter.pixel_distance.median(),
                 'cka': meter.cka(), 'debiased_cka': meter.debiased_cka()}
                for stage, meters in self.stages.items() for method, meter in meters.items()]

    def change_summary(self) -> list[dict[str, object]]:
        """Return one row for each method: the median over layers of each kind's relative change, and of the drift."""
        return [{'method': method, 'reference': changes.reference,
                 **{kind: _median(changes.of_kind(kind).values()) for kind in distortion.KINDS},
                 'mean_drift': _median(drift.mean_shift for drift in changes.drift.values()),
                 'variance_drift': _median(drift.log_var_ratio for drift in changes.drift.values())}
                for method, changes in self.changes.items()]

    def class_summary(self) -> list[dict[str, object]]:
        """Return one row for each stage, class and method: over the class's pixels, and over images that show it."""
        rows = []
        for stage, meters in self.stages.items():
            for number, class_ in enumerate(self.classes):
                for method, meter in meters.items():
                    pixels = meter.class_cosine[number]
                    shown = [image.class_cosine[number] for image in meter.images if number in image.class_cosine]
                    if shown:
                        rows.append({
                            'class': class_, 'method': method, 'stage': stage, 'images': len(shown),
                            'pixels': int(pixels.counts.sum()), 'pixel_cosine': pixels.quantile(0.5),
                            'quartiles': (pixels.quantile(0.25), pixels.quantile(0.75)),
                            'pixel_l2': meter.class_distance[number].quantile(0.5),
                            'image_cosine': median_with_interval(shown)})
        return rows

    def image_rows(self) -> list[dict[str, object]]:
        """Return one row for each stage, method and image."""
        return [{**vars(image), 'image': self.images[image.number], 'method': method, 'stage': stage}
                for stage, meters in self.stages.items() for method, meter in meters.items() for image in meter.images]

    def layer_rows(self) -> list[dict[str, object]]:
        """Return one row for each method and tensor."""
        return [{**tensor._asdict(), 'kind': distortion.KINDS[tensor.kind], 'method': method, 'change': change}
                for method, changes in self.changes.items() for tensor, change in changes.changes.items()]


def _median(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(np.median(numbers)) if numbers else np.nan
