"""All that an analysis found, as plain numbers and pictures: what tables, figures and the CSV file are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmseg_daft.analysis.meter import DistortionMeter, ImageDistortion, median_with_interval
from mmseg_daft.core.distortion import KINDS, LayerTensor
from mmseg_daft.core.shift import AverageShift

MIN_PIXELS = 4  # positions of a class that an image needs to stand for it: fewer are chance


@dataclass(frozen=True)
class MethodChanges:
    """How a method changed the parameters, in the order of the network.

    Relative changes (Eq. 6) of tensors, drift of the statistics of BN layers, and in words what ``W`` is.
    """

    changes: Mapping[LayerTensor, float]
    drift: Mapping[str, AverageShift]
    reference: str

    def of_kind(self, kind: str) -> dict[LayerTensor, float]:
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
    shown = {class_: [i for i in images if i.class_pixels.get(class_, 0) >= MIN_PIXELS] for class_ in range(classes)}
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
                 **{kind: _median(changes.of_kind(kind).values()) for kind in KINDS},
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
        return [{**tensor._asdict(), 'kind': KINDS[tensor.kind], 'method': method, 'change': change}
                for method, changes in self.changes.items() for tensor, change in changes.changes.items()]


def _median(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(np.median(numbers)) if numbers else np.nan
