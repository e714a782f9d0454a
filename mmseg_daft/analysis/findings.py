"""All that an analysis found, as plain numbers: what tables, figures and the tidy file are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmseg_daft.analysis.bootstrap import Median, median_with_interval
from mmseg_daft.analysis.distortion_meter import DistortionMeter
from mmseg_daft.core.distortion import KINDS, LayerTensor, StatisticsDrift


@dataclass(frozen=True)
class MethodChanges:
    """How a method changed the parameters.

    Attributes:
        changes: The relative change (Eq. 6) of each tensor, in the order of the network. Tensors whose value before
            fine-tuning is unknown are left out.
        drift: By BN layer, how far its statistics moved.
        reference: What ``W`` is, in words.
    """

    changes: Mapping[LayerTensor, float]
    drift: Mapping[str, StatisticsDrift]
    reference: str

    def of_kind(self, kind: str) -> dict[LayerTensor, float]:
        """The changes of one of ``KINDS``, in the order of the network."""
        return {tensor: change for tensor, change in self.changes.items() if tensor.kind == kind}


@dataclass(frozen=True)
class Findings:
    """All that an analysis found.

    Attributes:
        methods: Names of the fine-tuned models, in the order asked for.
        stages: By name, what was measured of the features.
        changes: By method, of the parameters.
        classes: Names of the classes; empty without ground truth.
        images: Names of the images.
        notes: What a reader has to know: data, models, fallbacks.
    """

    methods: Sequence[str]
    stages: Mapping[str, DistortionMeter]
    changes: Mapping[str, MethodChanges]
    classes: Sequence[str]
    images: Sequence[str]
    notes: Sequence[str] = field(default_factory=tuple)

    def summary(self) -> list[dict[str, object]]:
        """Return one row a method and stage: medians over images and pixels, CKA, changes."""
        rows = []
        for stage, meter in self.stages.items():
            for method in self.methods:
                mine = meter.methods[method]
                rows.append({
                    'method': method, 'stage': stage, 'images': len(mine.images),
                    'cosine': median_with_interval([image.cosine_similarity for image in mine.images]),
                    'l2': median_with_interval([image.l2_distance for image in mine.images]),
                    'pixel_cosine': Median(mine.pixel_cosine.quantile(0.5), *mine.pixel_cosine.interval()),
                    'pixel_l2': Median(mine.pixel_distance.quantile(0.5), *mine.pixel_distance.interval()),
                    'cka': meter.cka(method), 'debiased_cka': meter.debiased_cka(method)})
        return rows

    def change_summary(self) -> list[dict[str, object]]:
        """Return one row a method: the median over layers of each kind's relative change, and of the drift."""
        rows = []
        for method in self.methods:
            changes = self.changes[method]
            row: dict[str, object] = {'method': method, 'reference': changes.reference}
            row.update({kind: _median(list(changes.of_kind(kind).values())) for kind in KINDS})
            row['mean_drift'] = _median([drift.mean for drift in changes.drift.values()])
            row['variance_drift'] = _median([drift.log_variance for drift in changes.drift.values()])
            rows.append(row)
        return rows

    def class_summary(self) -> list[dict[str, object]]:
        """Return one row a class, method and stage: over the class's pixels, and over images that show it."""
        rows = []
        for stage, meter in self.stages.items():
            for number, class_ in enumerate(self.classes):
                for method in self.methods:
                    mine = meter.methods[method]
                    pixels = mine.class_cosine[number]
                    shown = [image.class_cosine[number] for image in mine.images if number in image.class_cosine]
                    if shown:
                        rows.append({
                            'class': class_, 'method': method, 'stage': stage, 'images': len(shown),
                            'pixels': int(pixels.counts.sum()), 'pixel_cosine': pixels.quantile(0.5),
                            'quartiles': (pixels.quantile(0.25), pixels.quantile(0.75)),
                            'pixel_l2': mine.class_distance[number].quantile(0.5),
                            'image_cosine': median_with_interval(shown)})
        return rows


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else np.nan
