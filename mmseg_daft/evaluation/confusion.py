"""Numbers from confusion matrices of images: IoU, robustness, and intervals over images. NumPy alone.

An image's *areas* are three rows of pixels by class, ``(3, K)``: where ground truth and prediction agree, the ground
truth, the prediction. Areas add up, over images and over sets; every number here is of such a sum. The last axis may
be that of ``sums``: the number itself and its replicates go through the same formulas.

Intervals are of the percentile bootstrap over images (Efron and Tibshirani 1993). Pixels of an image depend on each
other, so images are drawn, not pixels; and as each draw is the same for all runs and all corruptions of a set, the
difference of two of them is *paired* (Koehn, EMNLP 2004): what makes an image hard for both cancels.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000
LEAST_IMAGES = 5  # fewer say nothing of their spread
_AT_ONCE = 100


def class_iou(areas: NDArray[Any]) -> NDArray[np.float64]:
    """Return each class's IoU ``(..., K)``: NaN where neither ground truth nor prediction has it, as in mmseg."""
    agree, truth, told = np.moveaxis(np.asarray(areas, np.float64), -2, 0)
    return _ratio(agree, truth + told - agree)


def mean_iou(areas: NDArray[Any], judged: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the mean over classes of their IoU, as mmseg's ``IoUMetric`` has it: classes that are NaN do not count.

    ``judged`` are the classes that count, for a set that lacks some: ``(K,)``, or ``None`` for all.
    """
    iou = class_iou(areas)
    iou = iou if judged is None else iou[..., judged]
    return mean_of_known(iou, -1)


def accuracy(areas: NDArray[Any], judged: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the share of pixels with ground truth that are told right (``aAcc`` in mmseg), of judged classes alone."""
    agree, truth, _ = np.moveaxis(np.asarray(areas, np.float64), -2, 0)[..., slice(None) if judged is None else judged]
    return _ratio(agree.sum(-1), truth.sum(-1))


def class_accuracy(areas: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of each class that is told right, ``(..., K)``: NaN where the ground truth does not have it."""
    agree, truth, _ = np.moveaxis(np.asarray(areas, np.float64), -2, 0)
    return _ratio(agree, truth)


class Measure(NamedTuple):
    """What models are judged by, from areas.

    Attributes:
        name, of_class: What a report calls the number of all classes, and that of one.
        overall: As ``mean_iou``, and ``by_class`` as ``class_iou``.
    """

    name: str
    of_class: str
    overall: Callable[[NDArray[Any], NDArray[np.bool_] | None], NDArray[np.float64]]
    by_class: Callable[[NDArray[Any]], NDArray[np.float64]]


MIOU = Measure('mIoU', 'IoU', mean_iou, class_iou)
ACCURACY = Measure('accuracy', 'class_accuracy', accuracy, class_accuracy)
"""Of classifiers: an image is an area of one."""


def mean_of_known(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the mean of what is not NaN along an axis; NaN where all is."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis), known.sum(axis))


def _ratio(part: NDArray[np.float64], whole: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid='ignore', divide='ignore'):
        return part / whole


def mean_performance(corrupted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mPC, the mean performance under corruption (Michaelis et al. 2019, Eq. 1).

    That is the mean over corruptions of the mean over severities. ``corrupted`` is the mIoU
    ``(corruptions, severities, ...)``, NaN where a protocol leaves out a severity.
    """
    return mean_of_known(corrupted, 1).mean(0)


def relative_performance(corrupted: NDArray[np.float64], clean: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return rPC (Michaelis et al. 2019, Eq. 2): mPC over the performance on the clean images."""
    return _ratio(mean_performance(corrupted), np.asarray(clean))


def corruption_degradation(
    corrupted: NDArray[np.float64], of_reference: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return each corruption's CD against a reference model, ``(corruptions, ...)`` (Kamann and Rother, CVPR 2020).

    With the degradation D = 1 - mIoU, CD = Σₛ D / Σₛ D of the reference, over severities s: below 1 is better than the
    reference. It is Hendrycks and Dietterich's corruption error (ICLR 2019) with D in the place of the error, and of
    accuracy it is just that; its mean over corruptions is their mCE. Arguments are as in ``mean_performance``.
    """
    return _ratio(np.nansum(1 - corrupted, 1), np.nansum(1 - of_reference, 1))


def relative_corruption_degradation(
    corrupted: NDArray[np.float64], clean: NDArray[np.float64] | float, of_reference: NDArray[np.float64],
    reference_clean: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Return each corruption's rCD against a reference model, ``(corruptions, ...)`` (Kamann and Rother, CVPR 2020).

    rCD = Σₛ (D - D clean) / Σₛ (D - D clean) of the reference: what a corruption costs, not how bad the model is. It is
    Hendrycks and Dietterich's relative corruption error; NaN where it costs the reference nothing. Arguments are as in
    ``relative_performance``.
    """
    cost = np.nansum(reference_clean - of_reference, 1)
    return _ratio(np.nansum(clean - corrupted, 1), np.where(cost > 0, cost, np.nan))


class Estimate(NamedTuple):
    """A number with its 95 % bootstrap interval: NaN where there are too few images for one."""

    value: float
    low: float = np.nan
    high: float = np.nan

    def verdict(self) -> str:
        """Tell a difference's sign: ``'better'``, ``'worse'``, ``'level'`` where the interval holds zero, or ``''``."""
        if np.isnan(self.low):
            return ''
        return 'level' if self.low <= 0 <= self.high else 'better' if self.value > 0 else 'worse'


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Return a number with its interval, of the number and its replicates as they come from ``sums``."""
    value, replicates = float(values[0]), values[1:][np.isfinite(values[1:])]
    return Estimate(value, *map(float, np.quantile(replicates, [0.025, 0.975]))) if len(replicates) else Estimate(value)


def sums(areas: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sum of areas of images ``(N, 3, K)``, and below it that of each replicate, ``(1 + REPLICATES, 3, K)``.

    A replicate draws N images with replacement, the same in every call with as many images. Fewer images than
    ``LEAST_IMAGES`` have no replicates.
    """
    flat = areas.reshape(len(areas), -1).astype(np.float64)  # whole numbers below 2**53, so the sums are exact
    parts = [flat.sum(0, keepdims=True)]
    if len(areas) >= LEAST_IMAGES:
        draws = _draws(len(areas))
        parts += [draws[i:i + _AT_ONCE].astype(np.float64) @ flat for i in range(0, REPLICATES, _AT_ONCE)]
    return np.concatenate(parts).reshape(-1, *areas.shape[1:])


@lru_cache(maxsize=4)
def _draws(images: int) -> NDArray[np.uint16]:
    """Return how often each replicate draws each image, ``(REPLICATES, images)``."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(0, images, images), minlength=images).astype(np.uint16)
                     for _ in range(REPLICATES)])
