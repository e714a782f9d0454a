"""How well features serve a labelled data set, without training: a linear read-out in closed form.

Pixels' features are regressed on their classes (ridge regression, classes weighted alike) and judged on images
that the regression has not seen, by the mean over classes of the share of pixels that are told right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = 255


def sample_pixels(features: Tensor, labels: Tensor, per_image: int, seed: int) -> tuple[Tensor, Tensor]:
    """Take labelled places of feature maps.

    Args:
        features: ``(N, C, H, W)``.
        labels: ``(N, h, w)`` class ids; 255 is ignored. A place takes the label at its middle.
        per_image: At most how many of each image.
        seed: Of the choice.

    Returns:
        Features ``(M, C)`` in float64, and labels ``(M,)``.
    """
    size = features.shape[-2:]
    near = functional.interpolate(labels[:, None].double(), size=size, mode='nearest-exact')[:, 0].long()
    generator = torch.Generator().manual_seed(seed)
    picked_features, picked_labels = [], []
    for image, label in zip(features, near, strict=True):
        places = (label.flatten() != IGNORED).nonzero()[:, 0]
        places = places[torch.randperm(len(places), generator=generator)[:per_image].to(places.device)]
        picked_features.append(image.flatten(1).T[places].double().cpu())
        picked_labels.append(label.flatten()[places].cpu())
    return torch.cat(picked_features), torch.cat(picked_labels)


def probe_accuracy(parts: Sequence[tuple[Tensor, Tensor]], ridge: float = 1e-2) -> float:
    """Return the balanced accuracy of linear read-outs, each fitted to all parts but one and judged on that one.

    Args:
        parts: Features ``(M, C)`` and labels ``(M,)`` of disjoint groups of images, at least two.
        ridge: The strength of the penalty, relative to the features' variance.

    Raises:
        ValueError: There are fewer than two parts, or fewer than two classes.
    """
    if len(parts) < 2:
        raise ValueError('A probe needs at least two groups of images: one to fit, one to judge.')
    right: dict[int, int] = {}
    total: dict[int, int] = {}
    for held in range(len(parts)):
        features = torch.cat([part[0] for i, part in enumerate(parts) if i != held])
        labels = torch.cat([part[1] for i, part in enumerate(parts) if i != held])
        classes = labels.unique()
        if len(classes) < 2:
            raise ValueError('A probe needs at least two classes among the labels.')
        weights, bias = _ridge(features, labels, classes, ridge)
        told = classes[(parts[held][0] @ weights + bias).argmax(1)]
        for c in parts[held][1].unique().tolist():
            mine = parts[held][1] == c
            right[c] = right.get(c, 0) + int((told[mine] == c).sum())
            total[c] = total.get(c, 0) + int(mine.sum())
    return sum(right[c] / total[c] for c in total) / len(total)


def _ridge(features: Tensor, labels: Tensor, classes: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Fit class-balanced ridge regression of one-hot labels; return weights ``(C, K)`` and bias ``(K,)``."""
    onehot = (labels[:, None] == classes).double()
    weight = (onehot / onehot.sum(0)).sum(1) / len(classes)
    centre, middle = weight @ features, weight @ onehot
    x, y = features - centre, onehot - middle
    covariance = x.T @ (x * weight[:, None])
    penalty = ridge * covariance.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    solution = torch.linalg.solve(
        covariance + penalty * torch.eye(len(covariance), dtype=torch.float64), x.T @ (y * weight[:, None]))
    return solution, middle - centre @ solution


def balanced_accuracy(told: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes that occur of the share of their pixels that are told right."""
    return float(torch.stack([(told[labels == c] == c).double().mean() for c in labels.unique()]).mean())
