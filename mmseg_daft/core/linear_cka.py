"""Linear CKA between features before and after fine-tuning, in a stream of images.

Kornblith, Norouzi, Lee, Hinton (ICML 2019): with centred features X and Y, one row an image,

    CKA = ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)        (Frobenius norms)

is 1 for features that differ by a rotation and a scale, and so is a second opinion beside the cosine
similarity. It is too high for fewer images than channels; the debiased variant replaces each term by the unbiased
estimator of Song et al. (JMLR 2012, Eq. 5), as Nguyen, Raghu, Kornblith (ICLR 2021) do.

Both are functions of a few sums over images, which is all that is kept: C x C numbers, however many images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class CrossMoments:
    """Sums over images of two features ``x`` and ``y``, in float64: they add up over batches and ranks.

    The features are not shifted first. In float64 that leaves linear CKA ten digits where their means are a hundred
    deviations, and the debiased variant six.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.x, self.y, self.x_yy, self.y_xx = torch.zeros(4, channels, dtype=torch.float64)
        self.xx, self.yy, self.xx_yy = torch.zeros(3, dtype=torch.float64)
        self.xy = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in features ``(N, C)`` of ``N`` more images."""
        x, y = x.detach().cpu().double(), y.detach().cpu().double()
        xx, yy = x.square().sum(1), y.square().sum(1)
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.x_yy += yy @ x
        self.y_xx += xx @ y
        self.xx += xx.sum()
        self.yy += yy.sum()
        self.xx_yy += xx @ yy
        self.xy.addmm_(x.T, y)

    def merge(self, other: CrossMoments) -> None:
        """Take in what another process has summed."""
        self.count += other.count
        for name, tensor in vars(other).items():
            if name != 'count':
                getattr(self, name).add_(tensor)

    def dependence(self) -> float:
        """Return ‖XᵀY‖² of the centred features over the number of images squared."""
        n = max(self.count, 1)
        return float((self.xy / n - torch.outer(self.x / n, self.y / n)).square().sum())

    def unbiased_dependence(self) -> float:
        """Return the unbiased estimate of HSIC; it needs four images."""
        n = self.count
        trace = self.xy.square().sum() - self.xx_yy
        sums = (self.x @ self.x - self.xx) * (self.y @ self.y - self.yy) / ((n - 1) * (n - 2))
        rows = self.x @ self.xy @ self.y - self.x @ self.x_yy - self.y @ self.y_xx + self.xx_yy
        return float(trace + sums - 2 * rows / (n - 2)) / (n * (n - 3))


def linear_cka(both: CrossMoments, before: CrossMoments, after: CrossMoments) -> float:
    """Return linear CKA from 0 to 1.

    Args:
        both: Moments of features before with those after.
        before: Of features before with themselves.
        after: Of features after with themselves.

    Returns:
        NaN where features do not vary from image to image, as of a single one.
    """
    return _ratio(both.dependence(), before.dependence(), after.dependence(), before)


def debiased_cka(both: CrossMoments, before: CrossMoments, after: CrossMoments) -> float:
    """Return debiased linear CKA, at most 1 and on unrelated features 0 on average; arguments as of ``linear_cka``.

    Returns:
        NaN for fewer than four images.
    """
    if before.count < 4:
        return math.nan
    return _ratio(*(moments.unbiased_dependence() for moments in (both, before, after)), before)


def _ratio(both: float, before: float, after: float, moments: CrossMoments) -> float:
    noise = 1e-24 * (float(moments.xx) / max(moments.count, 1)) ** 2  # what rounding leaves where nothing varies
    return both / math.sqrt(before * after) if before > noise and after > noise else math.nan
