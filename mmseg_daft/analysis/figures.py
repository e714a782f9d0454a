"""The figures of a report, but for the contact sheets, in one style.

Figures 1 and 2 of Ha, Jeong, Lee (AAAI 2024): distributions of the two similarity measures, and relative changes of
each layer's parameters and statistics (Eq. 6). Besides: drift of the statistics, linear CKA, classes, domain gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from mmseg_daft.analysis.findings import Findings
from mmseg_daft.analysis.meter import DistortionMeter, Median, median_with_interval
from mmseg_daft.core.distortion import KINDS, stage_of

if TYPE_CHECKING:
    from mmseg_daft.analysis.linear_probe import Accuracies

# Okabe and Ito's colors (2008) keep apart for the color-blind, from dark to light among the first four; markers and
# dashes keep apart in gray.
_STYLES = (
    dict(color='#D55E00', marker='o', linestyle=(0, (5, 2))),
    dict(color='#0072B2', marker='s', linestyle='-'),
    dict(color='#E69F00', marker='^', linestyle=(0, (1, 1.2))),
    dict(color='#009E73', marker='D', linestyle=(0, (6, 2, 1, 2))),
    dict(color='#CC79A7', marker='v', linestyle=(0, (3, 1, 1, 1, 1, 1))),
    dict(color='#56B4E9', marker='P', linestyle=(0, (8, 3))),
    dict(color='#000000', marker='X', linestyle=(0, (2, 3))))
_USUAL = {'FT': 0, 'DAFT': 1, 'LP': 2, 'LP-FT': 3}
_SETTINGS = {
    'font.size': 9, 'axes.titlesize': 9.5, 'axes.labelsize': 9, 'legend.frameon': False, 'axes.spines.top': False,
    'axes.spines.right': False, 'figure.dpi': 130, 'svg.hashsalt': 'mmseg_daft'}

Style = Mapping[str, Any]
"""Color, marker and dashes."""


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """Return each method's style; the paper's methods have the same in every figure."""
    fixed = {method: _USUAL[method] for method in methods if method in _USUAL}
    free = [i for i in range(len(_STYLES)) if i not in fixed.values()]
    rest = [method for method in methods if method not in fixed]
    fixed.update({method: free[i % len(free)] for i, method in enumerate(rest)})
    return {method: _STYLES[fixed[method]] for method in methods}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in this project's style; the user's settings of matplotlib are restored afterwards."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches; no window is opened, whatever the machine has."""
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, folder: Path, name: str, formats: Sequence[str]) -> None:
    """Write a figure as ``folder/name.FORMAT`` for each format; the same figure gives the same SVG."""
    for suffix in formats:
        metadata: dict[str, None] | None = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}.get(suffix)
        figure.savefig(folder / f'{name}.{suffix}', metadata=metadata)
        figure.set_layout_engine('none')  # the layout is found: finding it again takes most of the time


def draw_distributions(findings: Findings, pixels: bool) -> Figure:
    """Draw both measures of the features at each position, or of each image's pooled feature; a row for each stage."""
    figure = new_figure(7.2, 0.5 + 2.1 * len(findings.stages))
    axes = figure.subplots(len(findings.stages), 2, squeeze=False)
    for row, (stage, meters) in zip(axes, findings.stages.items(), strict=True):
        for axis, cosine in zip(row, (True, False), strict=True):
            sample = _pixels if pixels else _images
            _draw_densities(axis, {method: sample(meter, cosine) for method, meter in meters.items()},
                            styles(findings.methods))
            measure = 'cosine similarity, per {} (higher' if cosine else 'L2 distance, per {} (lower'
            axis.set(xlabel=f'{measure.format("pixel" if pixels else "image")}: less distortion)',
                     ylabel='share per bin', title=f'Stage {stage}')
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside upper center', ncols=len(findings.methods))
    return figure


Sample = tuple[NDArray[np.float64], NDArray[np.float64], Median]
"""Values, how often each occurs, and their median."""


def _images(meter: DistortionMeter, cosine: bool) -> Sample:
    values = np.array([image.cosine_similarity if cosine else image.l2_distance for image in meter.images])
    return values, np.ones(len(values)), median_with_interval(values)


def _pixels(meter: DistortionMeter, cosine: bool) -> Sample:
    """Put each bin's counts at its middle."""
    histogram = meter.pixel_cosine if cosine else meter.pixel_distance
    middles = (histogram.bounds[1:] + histogram.bounds[:-1]) / 2
    full = histogram.counts > 0
    return (middles[full].clip(histogram.least, histogram.largest), histogram.counts[full].astype(float),
            histogram.median())


def _draw_densities(axis: Axes, samples: Mapping[str, Sample], looks: Mapping[str, Style]) -> None:
    """Overlay one histogram for each method, all with the same bins, and above them the medians with intervals."""
    bounds = np.array([_bounds(x, counts) for x, counts, _ in samples.values()])
    low, high = bounds[:, 0].min(), bounds[:, 1].max()
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.01, high + 0.01
    edges = np.linspace(low, high, 31 if max(counts.sum() for _, counts, _ in samples.values()) > 200 else 19)
    shares = {method: np.histogram(x.clip(low, high), edges, weights=counts)[0] / counts.sum()
              for method, (x, counts, _) in samples.items()}
    top = float(max(share.max() for share in shares.values()))
    for i, (method, (*_, median)) in enumerate(samples.items()):
        look, y = looks[method], top * (1.12 + 0.1 * i)
        axis.stairs(shares[method], edges, fill=True, color=look['color'], alpha=0.12)
        axis.stairs(shares[method], edges, color=look['color'], linestyle=look['linestyle'], linewidth=1.4)
        if np.isfinite(median.low):
            axis.plot([median.low, median.high], [y, y], color=look['color'], linewidth=2)
        axis.plot([median.value], [y], markersize=5.5, label=method, markeredgecolor='white', markeredgewidth=0.5,
                  **look)
    axis.set_ylim(0, top * (1.15 + 0.1 * len(samples)))


def _bounds(x: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """From the least to the largest value, but for the farthest 0.2 %, which are drawn at the rim."""
    order = np.argsort(x)
    share = counts[order].cumsum() / counts.sum()
    return x[order][np.searchsorted(share, 0.002)], x[order][np.searchsorted(share, 0.998 - 1e-12)]


def draw_changes(findings: Findings) -> Figure:
    """Draw the relative changes: one panel for each kind of tensor, layers in the order of the network."""
    kinds = [kind for kind in KINDS if any(changes.of_kind(kind) for changes in findings.changes.values())]
    figure = new_figure(7.2, 0.5 + 1.75 * len(kinds))
    axes = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
    for axis, kind in zip(axes, kinds, strict=True):
        draw_kind(axis, findings, kind)
    return _finished(figure, axes, findings, 'layers')


def draw_kind(axis: Axes, findings: Findings, kind: str) -> None:
    """Draw the relative changes of one kind of tensor; those of means and variances on a log scale, as in the paper."""
    log = kind in ('bn_mean', 'bn_variance')
    _draw_layers(axis, findings, {
        method: {tensor.layer: value for tensor, value in changes.of_kind(kind).items()}
        for method, changes in findings.changes.items()}, log)
    axis.set(title=f'{KINDS[kind].capitalize().replace("bn", "BN")}{" (log scale)" if log else ""}',
             ylabel='relative change')


def draw_drift(findings: Findings) -> Figure:
    """Draw how far the statistics of each BN layer moved, in standard deviations and as a factor."""
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots(2, 1)
    for axis, measure in zip(axes, ('mean_shift', 'log_var_ratio'), strict=True):
        _draw_layers(axis, findings, {method: {layer: getattr(drift, measure) for layer, drift in changes.drift.items()}
                                      for method, changes in findings.changes.items()}, log=True)
    axes[0].set(title='BN drift: running statistics before and after fine-tuning (log scale)',
                ylabel='mean shift (std. dev.)')
    axes[1].set_ylabel('|ln variance ratio|')
    return _finished(figure, axes, findings, 'BN layers')


def _finished(figure: Figure, axes: Sequence[Axes], findings: Findings, layers: str) -> Figure:
    """Name what panels over layers have in common: the axis and the methods, of which a panel may lack one."""
    axes[-1].set_xlabel(f'{layers} in the order of the network, by stage (IS: input stem)')
    handles = {label: handle for axis in axes
               for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc='outside upper center', ncols=len(findings.methods))
    return figure


def _draw_layers(axis: Axes, findings: Findings, series: Mapping[str, Mapping[str, float]], log: bool) -> None:
    """Draw one line for each method over the layers; on a log scale, layers that did not change are left out."""
    layers = max((list(values) for values in series.values()), key=len)
    place = {layer: i for i, layer in enumerate(layers)}
    for method, values in series.items():
        shown = [value if np.isfinite(value) and (value > 0 or not log) else np.nan for value in values.values()]
        axis.plot([place[layer] for layer in values], shown, label=method, markersize=3.2, linewidth=1.1,
                  markeredgewidth=0, **styles(findings.methods)[method])
    _mark_stages(axis, ['IS' if stage_of(layer) == 'stem' else stage_of(layer) for layer in layers])
    if not log:
        axis.set_ylim(bottom=0)
    elif any(value > 0 for values in series.values() for value in values.values()):
        _plain_log_scale(axis)


def _mark_stages(axis: Axes, stages: Sequence[str]) -> None:
    """Name the stages of layers at 0, 1, 2, … below an axis, with a line between two of them."""
    for i in range(1, len(stages)):
        if stages[i] != stages[i - 1]:
            axis.axvline(i - 0.5, color='0.8', linewidth=0.8, zorder=0)
    middles = {stage: np.mean([i for i, s in enumerate(stages) if s == stage]) for stage in stages}
    axis.set_xticks(list(middles.values()), list(middles))
    axis.tick_params(axis='x', length=0)
    axis.margins(x=0.01)


def _plain_log_scale(axis: Axes) -> None:
    """Give an axis a logarithmic scale with numbers such as 0.3 instead of 3 x 10⁻¹, at as few ticks as are needed."""
    axis.set_yscale('log')
    axis.yaxis.set_major_formatter(_PlainNumbers())
    axis.yaxis.set_minor_formatter(_PlainNumbers())


class _PlainNumbers(LogFormatter):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return f'{x:g}' if super().__call__(x, pos) else ''


def draw_cka(findings: Findings) -> Figure:
    """Draw linear CKA between the features before and after, per stage; beside it the debiased variant."""
    figure = new_figure(7.2, 2.8)
    axes = figure.subplots(1, 2, sharey=True)
    stages = list(findings.stages)
    for axis, cka in zip(axes, (DistortionMeter.cka, DistortionMeter.debiased_cka), strict=True):
        for method, look in styles(findings.methods).items():
            values = [cka(meters[method]) for meters in findings.stages.values()]
            axis.plot(range(len(stages)), values, label=method, markersize=5, linewidth=1.3, **look)
        axis.set_xticks(range(len(stages)), stages)
        axis.set_xlim(-0.3, len(stages) - 0.7)
        axis.set_xlabel('stage')
    images = len(findings.stages[stages[0]][findings.methods[0]].images)
    axes[0].set(title=f'Linear CKA, before vs after ({images} images)', ylabel='CKA (1: the same up to rotation)')
    axes[1].set_title('debiased (for few images)')
    axes[0].legend()
    return figure


def draw_classes(findings: Findings, stage: str) -> Figure:
    """Draw the cosine similarity at the pixels of each class: median and quartiles, one mark for each method."""
    rows = [row for row in findings.class_summary() if row['stage'] == stage]
    classes = list(dict.fromkeys(row['class'] for row in rows))
    looks = styles(findings.methods)
    figure = new_figure(7.2, 0.9 + (0.16 * len(looks) + 0.16) * max(1, len(classes)))
    axis = figure.subplots()
    for i, (method, look) in enumerate(looks.items()):
        mine = [row for row in rows if row['method'] == method]
        y = np.array([classes.index(row['class']) for row in mine]) + 0.18 * (i - (len(looks) - 1) / 2)
        quartiles = np.array([row['quartiles'] for row in mine]).reshape(-1, 2)
        axis.hlines(y, quartiles[:, 0], quartiles[:, 1], color=look['color'], linewidth=1.6)
        axis.plot([row['pixel_cosine'] for row in mine], y, marker=look['marker'], linestyle='', markersize=5,
                  color=look['color'], label=method, markeredgecolor='white', markeredgewidth=0.5)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_ylim(len(classes) - 0.5, -0.5)
    axis.tick_params(axis='y', length=0)
    axis.grid(axis='x', color='0.9', linewidth=0.6)
    axis.set_xlabel(f'cosine similarity at the pixels of the class, stage {stage}: median and quartiles')
    figure.legend(loc='outside upper center', ncols=len(looks))
    return figure


def draw_gap(
    rows: Sequence[Mapping[str, Any]], accuracies: Accuracies | None, other: Sequence[Mapping[str, Any]] | None = None,
) -> Figure:
    """Draw a domain gap: the divergence at each layer, and how well the features serve the target.

    Args:
        rows: The numbers of each layer.
        accuracies: What was measured of the features, or ``None``.
        other: Rows of another report; left out if its layers are others.
    """
    figure = new_figure(11, 4.2)
    axes = figure.subplots(1, 2, width_ratios=[2.6, 1]) if accuracies else [figure.subplots()]
    series = {'of means': ('mean_divergence', rows, _STYLES[1]), 'of variances': ('var_divergence', rows, _STYLES[0])}
    if other and [row['layer'] for row in other] == [row['layer'] for row in rows]:
        series['whole, in the other report'] = ('divergence', other, dict(color='0.55', marker='x', linestyle=':'))
    for label, (key, source, look) in series.items():
        axes[0].plot([max(row[key], 1e-4) for row in source], markersize=4, linewidth=1.2, label=label, **look)
    _mark_stages(axes[0], [row['stage'] for row in rows])
    _plain_log_scale(axes[0])
    axes[0].set(xlabel='batch-norm layers, by stage', title='Gap between source and target statistics',
                ylabel="Jeffreys' divergence in nats\n(median over channels)")
    axes[0].legend()
    if accuracies:
        bars = {'source features': accuracies.source, 'with adapted\nstatistics': accuracies.adapted}
        if accuracies.head is not None:
            bars['source decoder'] = accuracies.head
        for i, (value, look) in enumerate(zip(bars.values(), _STYLES, strict=False)):
            axes[1].barh(i, value, color=look['color'], height=0.6)
            axes[1].text(value + 0.02, i, f'{value:.0%}', va='center')
        axes[1].axvline(1 / accuracies.classes, color='black', linewidth=1, linestyle=':')
        axes[1].text(1 / accuracies.classes + 0.02, -0.52, 'chance', fontsize=8)
        axes[1].set_yticks(range(len(bars)), list(bars))
        axes[1].tick_params(axis='y', length=0)
        axes[1].set(ylim=(len(bars) - 0.5, -0.7), xlim=(0, 1), xlabel='balanced accuracy on target pixels',
                    title='How well the features serve')
    return figure
