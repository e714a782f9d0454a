"""What fine-tuning did: distortion of the features, linear CKA, relative change of each parameter.

Ha, Jeong, Lee (AAAI 2024), Figures 1 and 2. The less distortion, the more of what was pre-trained is still there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmseg_daft.core.arguments import inside
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.shift import AverageShift, statistics_shift

_CHANNELS_AT_ONCE = 64  # float64 copies of a whole map of 2048 channels would be larger than all else


class FeatureDistortion(NamedTuple):
    """Distortion of each feature, in float64.

    Attributes:
        cosine_similarity: From -1 to 1; 1 where the direction stayed.
        l2_distance: 0 where nothing moved.
    """

    cosine_similarity: Tensor
    l2_distance: Tensor


@torch.no_grad()
def feature_distortion(before: Tensor, after: Tensor) -> FeatureDistortion:
    """Compare features before and after fine-tuning.

    Args:
        before: ``(N, C)``, a feature an image, or ``(N, C, H, W)``, a feature a position; of the pre-trained model.
        after: Those of the fine-tuned model, of the same images in the same order.

    Returns:
        Both measures, ``(N,)`` or ``(N, H, W)``. The similarity of two features of length zero is 1, as nothing
        moved; that of one with another is 0, as it has no direction.

    Raises:
        ValueError: The shapes differ, or are not of these kinds.
    """
    if before.shape != after.shape or before.dim() not in (2, 4):
        raise ValueError(f'Features before and after must both be (N, C) or (N, C, H, W), not {tuple(before.shape)} '
                         f'and {tuple(after.shape)}: these are not two states of one model on the same images.')
    shape = (before.shape[0], *before.shape[2:])
    dots, befores, afters, squares = torch.zeros(4, *shape, dtype=torch.float64, device=before.device)
    for a, b in zip(before.split(_CHANNELS_AT_ONCE, 1), after.split(_CHANNELS_AT_ONCE, 1), strict=True):
        a, b = a.double(), b.double()
        dots += (a * b).sum(1)
        befores += a.square().sum(1)
        afters += b.square().sum(1)
        squares += (b - a).square().sum(1)
    lengths = (befores * afters).sqrt()
    without = torch.where((befores == 0) & (afters == 0), 1.0, 0.0).to(dots)
    cosine = torch.where(lengths == 0, without, dots / lengths.clamp(min=torch.finfo(torch.float64).tiny))
    return FeatureDistortion(cosine.clamp(-1, 1), squares.sqrt())


@torch.no_grad()
def pooled(features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average a feature map ``(N, C, H, W)`` over its pixels, or the ``valid`` ones: ``(N, C)``, in float64."""
    if valid is None:
        return features.mean(dim=(2, 3), dtype=torch.float64)
    sums = torch.cat([(part.double() * valid[:, None]).sum((2, 3)) for part in features.split(_CHANNELS_AT_ONCE, 1)], 1)
    return sums / valid.sum((1, 2))[:, None]


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
        """Add features ``(N, C)`` of ``N`` more images."""
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
        """Add what another process has summed."""
        self.count += other.count
        for name, tensor in vars(other).items():
            if name != 'count':
                getattr(self, name).add_(tensor)

    def dependence(self) -> float:
        """Return ‖XᵀY‖² of the centered features over the number of images squared."""
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
    """Return linear CKA from 0 to 1 (Kornblith, Norouzi, Lee, Hinton, ICML 2019).

    With centered features X and Y, one row an image, CKA = ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), in Frobenius norms. It is 1 for
    features that differ by a rotation and a scale, and too high for fewer images than channels. It is NaN if the
    features do not vary from image to image, for instance those of a single one.

    Args:
        both: Moments of features before with those after; the others are of one of them with itself.
    """
    return _ratio(both.dependence(), before.dependence(), after.dependence(), before)


def debiased_cka(both: CrossMoments, before: CrossMoments, after: CrossMoments) -> float:
    """Return debiased linear CKA, at most 1, and 0 on average for unrelated features; arguments as in ``linear_cka``.

    Each term is replaced by the unbiased estimator of Song et al. (JMLR 2012, Eq. 5), as Nguyen, Raghu, Kornblith (ICLR
    2021) do. It is NaN for fewer than four images.
    """
    if before.count < 4:
        return math.nan
    return _ratio(*(moments.unbiased_dependence() for moments in (both, before, after)), before)


def _ratio(both: float, before: float, after: float, moments: CrossMoments) -> float:
    noise = 1e-24 * (float(moments.xx) / max(moments.count, 1)) ** 2  # what rounding leaves where nothing varies
    return both / math.sqrt(before * after) if before > noise and after > noise else math.nan


KINDS = {
    'conv_weight': 'weight of conv layers',
    'bn_weight': 'weight of BN layers',
    'bn_bias': 'bias of BN layers',
    'bn_mean': 'mean of BN layers',
    'bn_variance': 'variance of BN layers'}
"""What is compared, in the words of the paper's Figure 2."""

_BN_TENSORS = {'weight': 'bn_weight', 'bias': 'bn_bias', 'running_mean': 'bn_mean', 'running_var': 'bn_variance'}
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LayerTensor(NamedTuple):
    """A tensor that Eq. 6 is about: its name in the state dict, its layer's, a key of ``KINDS``, and ``stage_of``."""

    name: str
    layer: str
    kind: str
    stage: str


def layer_tensors(model: nn.Module, modules: Sequence[str] = ('backbone',)) -> Iterator[LayerTensor]:
    """Yield the tensors of convolutions and batch norm inside some submodules, in the order of the network.

    The order is that in which the layers were registered, which for the networks of mmseg is the one they run in.
    """
    for layer, module in model.named_modules():
        if not inside(layer, modules):
            continue
        stage = stage_of(layer)
        if isinstance(module, _CONVS):
            yield LayerTensor(f'{layer}.weight', layer, 'conv_weight', stage)
        elif isinstance(module, BatchNorm):
            for tensor, kind in _BN_TENSORS.items():
                if getattr(module, tensor) is not None:
                    yield LayerTensor(f'{layer}.{tensor}', layer, kind, stage)


def stage_of(layer: str) -> str:
    """Return the stage that a layer's name tells, counted from 1.

    What comes before the stages is the ``'stem'``; a layer of a head or neck belongs to the module of its first two
    names. HRNet's transitions belong to the stage that they lead to. ``blocks`` are stages in timm's EfficientNets.
    """
    parts = layer.split('.')
    if parts[0].endswith(('head', 'neck')):
        return '.'.join(parts[:2])
    found = re.search(r'(?:^|[._])(layer|stage|s|denseblock|(?:stages|blocks)[._]|transition)(\d+)(?:\.|$)', layer)
    if not found:
        return 'stem'
    return str(int(found[2]) + (found[1][-1] in '._' or found[1] == 'transition'))  # ModuleLists count from 0


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return ‖after - before‖₂ / ‖before‖₂ in float64, of tensors of one shape (Ha, Jeong, Lee, Eq. 6).

    For DAFT, ``before`` is the value *after* the conversion, which moves no feature. The change is 0 where nothing
    changed, and infinite where all was zero before and is no longer.

    Raises:
        ValueError: The shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f'The tensor had shape {tuple(before.shape)} and has {tuple(after.shape)} now: these are not '
                         'two states of one model.')
    before, after = before.detach().cpu().double(), after.detach().cpu().double()
    change, length = float((after - before).norm()), float(before.norm())
    return change / length if length else (math.inf if change else 0.0)


@torch.no_grad()
def statistics_drift(layer: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], eps: float) -> AverageShift:
    """Return the drift of one layer's statistics between two state dicts; ``eps`` is the layer's ε."""
    tensors = (state[f'{layer}.{tensor}'].cpu() for state in (before, after)
               for tensor in ('running_mean', 'running_var'))
    return statistics_shift(*tensors, eps).average
