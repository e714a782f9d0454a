"""Figure 1 of Ha, Jeong, Lee (AAAI 2024): distributions of the two similarity measures, per image or per pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmseg_daft.analysis.bootstrap import Median, median_with_interval
from mmseg_daft.analysis.findings import Findings
from mmseg_daft.analysis.pixel_histogram import PixelHistogram
from mmseg_daft.analysis.styles import new_figure, styles

MEASURES = {'cosine': 'cosine similarity', 'l2': 'L2 distance'}
_BETTER = {'cosine': 'higher: less distortion', 'l2': 'lower: less distortion'}


def draw_image_distributions(findings: Findings) -> Figure:
    """Draw both measures of each image's pooled feature, one row a stage; a mark is the median, with its interval."""
    def samples(stage: str, method: str, measure: str) -> tuple[Sample, Median]:
        images = findings.stages[stage].methods[method].images
        values = np.array([i.cosine_similarity if measure == 'cosine' else i.l2_distance for i in images])
        return (values, np.ones(len(values))), median_with_interval(values)
    return _draw(findings, samples, 'per image')


def draw_pixel_distributions(findings: Findings) -> Figure:
    """Draw both measures of the features at each position, one row a stage; marks as above."""
    def samples(stage: str, method: str, measure: str) -> tuple[Sample, Median]:
        meter = findings.stages[stage].methods[method]
        histogram = meter.pixel_cosine if measure == 'cosine' else meter.pixel_distance
        return _as_sample(histogram), Median(histogram.quantile(0.5), *histogram.interval())
    return _draw(findings, samples, 'per pixel')


Sample = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Values and how often each occurs."""


def _as_sample(histogram: PixelHistogram) -> Sample:
    """Put each bin's counts at its middle."""
    edges = histogram.bins.edges
    middles = np.concatenate([[histogram.least], (edges[1:] + edges[:-1]) / 2, [histogram.largest]])
    full = histogram.counts > 0
    return middles[full].clip(histogram.least, histogram.largest), histogram.counts[full].astype(float)


def _draw(findings: Findings, samples: Any, level: str) -> Figure:
    stages = list(findings.stages)
    figure = new_figure(7.2, 0.5 + 2.1 * len(stages))
    axes = figure.subplots(len(stages), 2, squeeze=False)
    looks = styles(findings.methods)
    for row, stage in zip(axes, stages, strict=True):
        for axis, measure in zip(row, MEASURES, strict=True):
            taken = {method: samples(stage, method, measure) for method in findings.methods}
            draw_densities(axis, taken, looks)
            axis.set(xlabel=f'{MEASURES[measure]}, {level} ({_BETTER[measure]})', ylabel='share per bin')
            axis.set_title(f'Stage {stage}')
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside upper center', ncols=len(looks))
    return figure


def draw_densities(
    axis: Axes, samples: Mapping[str, tuple[Sample, Median]], looks: Mapping[str, Mapping[str, Any]],
) -> None:
    """Overlay one histogram a method, all with the same bins, and above them the medians with their intervals.

    Args:
        axis: Where to draw.
        samples: By method, values with their counts, and their median.
        looks: By method, colour, marker and dashes.
    """
    values = {method: sample for method, (sample, _) in samples.items() if len(sample[0])}
    if not values:
        return
    low, high = _range(values)
    edges = np.linspace(low, high, 31 if max(s[1].sum() for s in values.values()) > 200 else 19)
    top = 0.0
    for method, (x, counts) in values.items():
        shares = np.histogram(x.clip(low, high), edges, weights=counts)[0] / counts.sum()
        look = looks[method]
        axis.stairs(shares, edges, fill=True, color=look['color'], alpha=0.12)
        axis.stairs(shares, edges, color=look['color'], linestyle=look['linestyle'], linewidth=1.4)
        top = max(top, float(shares.max()))
    for i, (method, (_, median)) in enumerate(samples.items()):
        look = looks[method]
        y = top * (1.12 + 0.1 * i)
        if np.isfinite(median.low):
            axis.plot([median.low, median.high], [y, y], color=look['color'], linewidth=2)
        axis.plot([median.value], [y], marker=look['marker'], markersize=5.5, color=look['color'],
                  linestyle=look['linestyle'], label=method, markeredgecolor='white', markeredgewidth=0.5)
    axis.set_ylim(0, top * (1.15 + 0.1 * len(samples)))


def _range(samples: Mapping[str, Sample]) -> tuple[float, float]:
    """From the least to the largest value, but for the farthest 0.2 % of a method, which are drawn at the rim."""
    bounds = []
    for x, counts in samples.values():
        order = np.argsort(x)
        share = counts[order].cumsum() / counts.sum()
        bounds.append((x[order][np.searchsorted(share, 0.002)], x[order][np.searchsorted(share, 0.998 - 1e-12)]))
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.01, high + 0.01
    return float(low), float(high)
