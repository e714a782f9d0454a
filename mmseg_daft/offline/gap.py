"""How far a target domain lies from the source, without training: layer by layer, and for the target's labels.

How well the source model's features serve those is told by linear read-outs in closed form: pixels' features are
regressed on their classes (ridge regression, classes weighted alike) and judged on images that the regression has not
seen, by the mean over classes of the share of pixels that are told right.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from mmseg_daft.analysis.figures import STYLES, mark_stages, plain_log_scale
from mmseg_daft.analysis.findings import VOID
from mmseg_daft.core.distortion import stage_of
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.core.shift import Shift, statistics_shift
from mmseg_daft.core.variant import ConversionVariant
from mmseg_daft.engine.configs import ignored_labels
from mmseg_daft.engine.convert_model import ConversionRecord
from mmseg_daft.engine.training_data import ModelForward, TargetLoader
from mmseg_daft.offline.start import Start

PIXELS = 200  # of each image
GROUPS = 4  # of images, for cross-validation
RIDGE = 1e-2  # the strength of the penalty, relative to the features' variance

Pixels = tuple[Tensor, Tensor]  # features (M, C) in float64 and labels (M,)


class Accuracies(NamedTuple):
    """Balanced accuracies on the target's pixels, of so many classes.

    Attributes:
        source: Of a linear read-out of the source's features, which a conversion keeps.
        adapted: Of one with the target's statistics and no compensation: what batch norm in train mode starts from
            where nothing is converted.
        head: Of the checkpoint's own decoder, taken to name the same classes; ``None`` where it has none that fits.
    """

    source: float
    adapted: float
    head: float | None
    classes: int


def measure_layers(start: Start) -> tuple[list[dict[str, Any]], ConversionRecord]:
    """Return the numbers of each layer, from a conversion that is undone, and its record."""
    record = start.convert(replace(start.settings, variant=ConversionVariant(), tolerance=float('inf')))
    source, target = record.report.source, record.report.statistics
    record.report.undo(start.model)
    return [dict(layer=name, stage=stage_of(name), **numbers(statistics_shift(
        source[name].running_mean, source[name].running_var, target[name].mean, target[name].var,
        start.model.get_submodule(name).eps))) for name in source], record


def numbers(shift: Shift) -> dict[str, float]:
    """Return a layer's row of the report.

    Shift and ratio are means of absolute values over the channels. Divergences are medians: a channel that was all but
    dead in the source divides by a variance of next to nothing.
    """
    return dict(
        channels=len(shift.mean),
        **shift.average._asdict(),
        signed_log_var_ratio=float(shift.log_var_ratio.mean()),
        divergence=float(shift.divergence.median()),
        mean_divergence=float(shift.mean_divergence.median()),
        var_divergence=float(shift.var_divergence.median()),
        largest_divergence=float(shift.divergence.max()))


def measure_accuracies(start: Start, num_batches: int) -> Accuracies | None:
    """Measure how well the source's features serve the target's labels, as they are and with adapted statistics.

    The model is left with the adapted statistics. The pixels are of ``num_batches`` mini-batches at most; ``None``
    where these are a single one, or their labels are not of two classes.
    """
    source, logits = _sample(start, num_batches)
    try:
        in_source = probe_accuracy(source)
    except ValueError:
        return None
    head = balanced_accuracy(logits[0].argmax(1), logits[1]) if logits else None
    start.convert(replace(start.settings, variant=ConversionVariant(compensate=False), stop=None, statistics=None))
    adapted, _ = _sample(start, num_batches)
    classes = len(torch.cat([labels for _, labels in source]).unique())
    return Accuracies(in_source, probe_accuracy(adapted), head, classes)


@torch.no_grad()
def _sample(start: Start, num_batches: int) -> tuple[list[Pixels], Pixels | None]:
    """Return pixels of the last feature map, in groups of images; and the same of the decoder's output, if it fits."""
    pixels, logits = [], []
    forward, model = ModelForward(start.model, ()), start.model
    ignored = torch.tensor(sorted(ignored_labels(start.cfg)), device=next(model.parameters()).device)
    with preserved_random_state():
        loader = TargetLoader(start.loader, start.seed)
        batches = track(islice(loader, num_batches), 'Pixels for the read-outs', min(num_batches, len(loader)),
                        transient=True, disable=not sys.stdout.isatty())
        for i, batch in enumerate(batches):
            data = forward.prepare(batch)
            if not all('gt_sem_seg' in sample for sample in data['data_samples']):
                return [], None
            labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data['data_samples']])
            labels[torch.isin(labels, ignored)] = VOID
            features = model.extract_feat(data['inputs'])
            last = features if isinstance(features, Tensor) else features[-1]  # DDRNet and PIDNet: one, in eval mode
            pixels.append(sample_pixels(last, labels, PIXELS, i))
            if start.head_loaded and getattr(model.decode_head, 'out_channels', 0) > 1:
                logits.append(sample_pixels(model.decode_head(features), labels, PIXELS, i))
    groups = [_joined(pixels[i::GROUPS]) for i in range(min(GROUPS, len(pixels)))]
    return groups, _joined(logits) if logits else None


def _joined(parts: Sequence[Pixels]) -> Pixels:
    features, labels = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(labels)


def sample_pixels(features: Tensor, labels: Tensor, per_image: int, seed: int) -> Pixels:
    """Take so many places of each image of feature maps ``(N, C, H, W)``, or all that are labeled if fewer.

    A place takes the label at its middle, of class ids ``(N, h, w)``; 255 is ignored.
    """
    near = functional.interpolate(labels[:, None].double(), features.shape[-2:], mode='nearest-exact')[:, 0].long()
    generator = torch.Generator().manual_seed(seed)
    picked = []
    for image, label in zip(features, near.flatten(1), strict=True):
        places = (label != VOID).nonzero()[:, 0]
        places = places[torch.randperm(len(places), generator=generator)[:per_image].to(places.device)]
        picked.append((image.flatten(1).T[places].double().cpu(), label[places].cpu()))
    return _joined(picked)


def probe_accuracy(parts: Sequence[Pixels]) -> float:
    """Return the balanced accuracy of linear read-outs, each fitted to all parts but one and judged on that one.

    The parts are pixels of disjoint groups of images.

    Raises:
        ValueError: There are fewer than two parts, or fewer than two classes.
    """
    if len(parts) < 2:
        raise ValueError('A probe needs at least two groups of images: one to fit, one to judge.')
    told = []
    for held, (features, _) in enumerate(parts):
        x, y = _joined([part for i, part in enumerate(parts) if i != held])
        classes = y.unique()
        if len(classes) < 2:
            raise ValueError('A probe needs at least two classes among the labels.')
        weights, bias = _ridge(x, y, classes)
        told.append(classes[(features @ weights + bias).argmax(1)])
    return balanced_accuracy(torch.cat(told), torch.cat([labels for _, labels in parts]))


def _ridge(features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Fit class-balanced ridge regression of one-hot labels; return weights ``(C, K)`` and bias ``(K,)``."""
    onehot = (labels[:, None] == classes).double()
    weight = (onehot / onehot.sum(0)).sum(1) / len(classes)
    center, middle = weight @ features, weight @ onehot
    x, y = features - center, onehot - middle
    covariance = x.T @ (x * weight[:, None])
    penalty = RIDGE * covariance.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    solution = torch.linalg.solve(
        covariance + penalty * torch.eye(len(covariance), dtype=torch.float64), x.T @ (y * weight[:, None]))
    return solution, middle - center @ solution


def balanced_accuracy(told: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes that occur of the share of their pixels that are told right."""
    return float(torch.stack([(told[labels == c] == c).double().mean() for c in labels.unique()]).mean())


def summary(rows: Sequence[Mapping[str, Any]], accuracies: Accuracies | None) -> str:
    """Return the gap in one line: how large, of means or variances, where the largest; and the read-outs."""
    means, variances = (sum(row[part] for row in rows) for part in ('mean_divergence', 'var_divergence'))
    share = f', {means / (means + variances):.0%} of it from means' if means + variances else ''
    stages = {row['stage']: median(r['divergence'] for r in rows if r['stage'] == row['stage']) for row in rows}
    farthest = max(stages, key=stages.__getitem__)
    line = (f'Median divergence {median(row["divergence"] for row in rows):.2f} nats over {len(rows)} layers{share}; '
            f'largest in {"stage " * farthest.isdigit()}{farthest} ({stages[farthest]:.2f}).')
    if accuracies is None:
        return f'{line} No read-outs: they need pixels labelled with two classes, in two mini-batches.'
    head = '' if accuracies.head is None else f', source decoder {accuracies.head:.0%}'
    return (f'{line} Balanced accuracy on target pixels (chance {1 / accuracies.classes:.0%}): linear read-out of '
            f'source features {accuracies.source:.0%}, with adapted statistics {accuracies.adapted:.0%}{head}.')


def verdict(accuracies: Accuracies) -> str:
    """Return what to expect of a conversion, in two sentences: the rule of ``docs/shifts.md``, and how it did there."""
    if accuracies.source > accuracies.adapted:
        return ('Linear read-outs are better of the source features than with adapted statistics: convert. On 12 of 13 '
                'such shifts the conversion helped on the target, by 6.3 mIoU on average over all 13 '
                '(docs/shifts.md).')
    return ('Linear read-outs are no better of the source features than with adapted statistics: a conversion is '
            'unlikely to help on the target. On two such shifts it cost 0.5 mIoU on average (docs/shifts.md).')


def draw_gap(
    rows: Sequence[Mapping[str, Any]], accuracies: Accuracies | None, other: Sequence[Mapping[str, Any]] | None = None,
) -> Figure:
    """Draw a domain gap: the divergence at each layer, and how well the features serve the target.

    The rows are the numbers of each layer; those of another report are left out if its layers are others.
    """
    figure = Figure((11, 4.2), layout='constrained')
    axes = figure.subplots(1, 2, width_ratios=[2.6, 1]) if accuracies else [figure.subplots()]
    series = {'of means': ('mean_divergence', rows, STYLES[1]), 'of variances': ('var_divergence', rows, STYLES[0])}
    if other and [row['layer'] for row in other] == [row['layer'] for row in rows]:
        series['whole, in the other report'] = ('divergence', other, dict(color='0.55', marker='x', linestyle=':'))
    for label, (key, source, look) in series.items():
        axes[0].plot([max(row[key], 1e-4) for row in source], markersize=4, linewidth=1.2, label=label, **look)
    mark_stages(axes[0], [row['stage'] for row in rows])
    plain_log_scale(axes[0])
    axes[0].set(xlabel='batch-norm layers, by stage', title='Gap between source and target statistics',
                ylabel="Jeffreys' divergence in nats\n(median over channels)")
    axes[0].legend()
    if accuracies:
        bars = {'source features': accuracies.source, 'with adapted\nstatistics': accuracies.adapted}
        if accuracies.head is not None:
            bars['source decoder'] = accuracies.head
        for i, (value, look) in enumerate(zip(bars.values(), STYLES, strict=False)):
            axes[1].barh(i, value, color=look['color'], height=0.6)
            axes[1].text(value + 0.02, i, f'{value:.0%}', va='center')
        axes[1].axvline(1 / accuracies.classes, color='black', linewidth=1, linestyle=':')
        axes[1].text(1 / accuracies.classes + 0.02, -0.52, 'chance', fontsize=8)
        axes[1].tick_params(axis='y', length=0)
        axes[1].set(yticks=range(len(bars)), yticklabels=bars, ylim=(len(bars) - 0.5, -0.7), xlim=(0, 1),
                    xlabel='balanced accuracy on target pixels', title='How well the features serve')
    return figure
