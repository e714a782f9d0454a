"""The figures of a report, in one style.

Figures 1 and 2 of Ha, Jeong, Lee (AAAI 2024): distributions of the two similarity measures, and relative changes of
each layer's parameters and statistics (Eq. 6). Figures 6 to 9, for segmentation: contact sheets of the least and the
most distorted images. Besides: drift of the statistics, linear CKA, classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from mmseg_daft.analysis.findings import DistortionMeter, Findings, Median, Scene, median_with_interval
from mmseg_daft.core.distortion import KINDS, stage_of

# Okabe and Ito's colors (2008) keep apart for the color-blind, from dark to light among the first four; markers and
# dashes keep apart in gray.
STYLES = (
    dict(color='#D55E00', marker='o', linestyle=(0, (5, 2))),
    dict(color='#0072B2', marker='s', linestyle='-'),
    dict(color='#E69F00', marker='^', linestyle=(0, (1, 1.2))),
    dict(color='#009E73', marker='D', linestyle=(0, (6, 2, 1, 2))),
    dict(color='#CC79A7', marker='v', linestyle=(0, (3, 1, 1, 1, 1, 1))),
    dict(color='#56B4E9', marker='P', linestyle=(0, (8, 3))),
    dict(color='#000000', marker='X', linestyle=(0, (2, 3))),
    dict(color='#999999', marker='p', linestyle=(0, (10, 2, 2, 2))))
_USUAL = dict(zip(('FT', 'DAFT', 'LP', 'LP-FT'), STYLES, strict=False))
_SETTINGS = {
    'text.parse_math': False,  # names may hold any sign
    'font.size': 9, 'axes.titlesize': 9.5, 'axes.labelsize': 9, 'legend.frameon': False, 'axes.spines.top': False,
    'axes.spines.right': False, 'figure.dpi': 130, 'svg.hashsalt': 'mmseg_daft'}
_HEAT = 'inferno'  # its lightness rises evenly, so that it reads in gray

UNDATED: Mapping[str, dict[str, None]] = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}


def styles(methods: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return each method's color, marker and dashes; the paper's methods have the same in every figure."""
    taken = {method: _USUAL[method] for method in methods if method in _USUAL}
    free = itertools.cycle(look for look in STYLES if look not in taken.values())
    return {method: taken.get(method) or next(free) for method in methods}


def _label(name: str) -> str:
    """Return a name as a legend shows it: one that begins with an underscore, matplotlib leaves out."""
    return f' {name}' if name.startswith('_') else name


def figure_style() -> AbstractContextManager[None]:
    """Draw and save in this project's style; the user's settings of matplotlib are restored afterwards."""
    return matplotlib.rc_context(_SETTINGS)


def save_figure(figure: Figure, folder: Path, name: str, formats: Sequence[str]) -> None:
    """Write a figure as ``folder/name.FORMAT`` for each format; the same figure gives the same SVG."""
    for suffix in formats:
        figure.savefig(folder / f'{name}.{suffix}', metadata=UNDATED.get(suffix))
        figure.set_layout_engine('none')  # the layout is found: finding it again takes most of the time


def draw_distributions(findings: Findings, pixels: bool) -> Figure:
    """Draw both measures of the features at each position, or of each image's pooled feature; a row for each stage."""
    figure = Figure((7.2, 0.5 + 2.1 * len(findings.stages)), layout='constrained')
    axes = figure.subplots(len(findings.stages), 2, squeeze=False)
    for row, (stage, meters) in zip(axes, findings.stages.items(), strict=True):
        for axis, cosine in zip(row, (True, False), strict=True):
            _draw_densities(axis, {method: _sample(meter, cosine, pixels) for method, meter in meters.items()})
            measure = 'cosine similarity, per {} (higher' if cosine else 'L2 distance, per {} (lower'
            axis.set(xlabel=f'{measure.format("pixel" if pixels else "image")}: less distortion)',
                     ylabel='share per bin', title=f'Stage {stage}')
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside upper center', ncols=len(findings.methods))
    return figure


def _sample(meter: DistortionMeter, cosine: bool, pixels: bool) -> tuple[NDArray[Any], NDArray[Any], Median]:
    """Return values, how often each occurs, and their median; pixels are at the middles of their bins."""
    if not pixels:
        values = np.array([image.cosine_similarity if cosine else image.l2_distance for image in meter.images])
        return values, np.ones(len(values)), median_with_interval(values)
    histogram = meter.pixel_cosine if cosine else meter.pixel_distance
    middles = ((histogram.bounds[1:] + histogram.bounds[:-1]) / 2).clip(histogram.least, histogram.largest)
    full = histogram.counts > 0
    return middles[full], histogram.counts[full], histogram.median()


def _draw_densities(axis: Axes, samples: Mapping[str, tuple[NDArray[Any], NDArray[Any], Median]]) -> None:
    """Overlay one histogram for each method, all with the same bins, and above them the medians with intervals."""
    bounds = np.array([_bounds(x, counts) for x, counts, _ in samples.values()])
    low, high = bounds[:, 0].min(), bounds[:, 1].max()
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.01, high + 0.01
    edges = np.linspace(low, high, 31 if max(counts.sum() for _, counts, _ in samples.values()) > 200 else 19)
    shares = {method: np.histogram(x.clip(low, high), edges, weights=counts)[0] / counts.sum()
              for method, (x, counts, _) in samples.items()}
    top = float(max(share.max() for share in shares.values()))
    for i, (method, look) in enumerate(styles(list(samples)).items()):
        median, y = samples[method][-1], top * (1.12 + 0.1 * i)
        axis.stairs(shares[method], edges, fill=True, color=look['color'], alpha=0.12)
        axis.stairs(shares[method], edges, color=look['color'], linestyle=look['linestyle'], linewidth=1.4)
        if np.isfinite(median.low):
            axis.plot([median.low, median.high], [y, y], color=look['color'], linewidth=2)
        axis.plot([median.value], [y], markersize=5.5, label=_label(method), markeredgecolor='white',
                  markeredgewidth=0.5, **look)
    axis.set_ylim(0, top * (1.15 + 0.1 * len(samples)))


def _bounds(x: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float]:
    """From the least to the largest value, but for the farthest 0.2 %, which are drawn at the rim."""
    order = np.argsort(x)
    share = counts[order].cumsum() / counts.sum()
    return x[order][np.searchsorted(share, 0.002)], x[order][np.searchsorted(share, 0.998 - 1e-12)]


def draw_changes(findings: Findings) -> Figure:
    """Draw the relative changes: one panel for each kind of tensor, layers in the order of the network."""
    kinds = [kind for kind in KINDS if any(changes.of_kind(kind) for changes in findings.changes.values())]
    figure = Figure((7.2, 0.5 + 1.75 * len(kinds)), layout='constrained')
    axes = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
    for axis, kind in zip(axes, kinds, strict=True):
        draw_kind(axis, findings, kind)
    return _named(figure, axes, 'layers')


def draw_kind(axis: Axes, findings: Findings, kind: str) -> None:
    """Draw the relative changes of one kind of tensor; those of means and variances on a log scale, as in the paper."""
    log = kind in ('bn_mean', 'bn_variance')
    _draw_layers(axis, {method: {tensor.layer: value for tensor, value in changes.of_kind(kind).items()}
                        for method, changes in findings.changes.items()}, log)
    axis.set(title=f'{KINDS[kind].capitalize().replace("bn", "BN")}{" (log scale)" if log else ""}',
             ylabel='relative change')


def draw_drift(findings: Findings) -> Figure:
    """Draw how far the statistics of each BN layer moved, in standard deviations and as a factor."""
    figure = Figure((7.2, 4.2), layout='constrained')
    axes = figure.subplots(2, 1)
    for axis, measure in zip(axes, ('mean_shift', 'log_var_ratio'), strict=True):
        _draw_layers(axis, {method: {layer: getattr(drift, measure) for layer, drift in changes.drift.items()}
                            for method, changes in findings.changes.items()}, log=True)
    axes[0].set(title='BN drift: running statistics before and after fine-tuning (log scale)',
                ylabel='mean shift (std. dev.)')
    axes[1].set_ylabel('|ln variance ratio|')
    return _named(figure, axes, 'BN layers')


def _named(figure: Figure, axes: Sequence[Axes], layers: str) -> Figure:
    """Name what panels over layers have in common: the axis and the methods."""
    axes[-1].set_xlabel(f'{layers} in the order of the network, by stage (IS: input stem)')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=len(labels))
    return figure


def _draw_layers(axis: Axes, series: Mapping[str, Mapping[str, float]], log: bool) -> None:
    """Draw one line for each method over the layers; on a log scale, layers that did not change are left out."""
    for method, look in styles(list(series)).items():
        layers, changes = list(series[method]), np.array(list(series[method].values()))
        shown = np.where(np.isfinite(changes) & ((changes > 0) | (not log)), changes, np.nan)
        axis.plot(shown, label=_label(method), markersize=3.2, linewidth=1.1, markeredgewidth=0, **look)
    mark_stages(axis, [stage_of(layer).replace('stem', 'IS') for layer in layers])
    if not log:
        axis.set_ylim(bottom=0)
    elif any(value > 0 for values in series.values() for value in values.values()):
        plain_log_scale(axis)


def mark_stages(axis: Axes, stages: Sequence[str]) -> None:
    """Name the stages of layers at 0, 1, 2, … below an axis, with a line between two of them."""
    for i in range(1, len(stages)):
        if stages[i] != stages[i - 1]:
            axis.axvline(i - 0.5, color='0.8', linewidth=0.8, zorder=0)
    middles = {stage: np.mean([i for i, s in enumerate(stages) if s == stage]) for stage in stages}
    axis.set_xticks(list(middles.values()), list(middles))
    axis.tick_params(axis='x', length=0)
    axis.margins(x=0.01)


def plain_log_scale(axis: Axes) -> None:
    """Give an axis a logarithmic scale with numbers such as 0.3 instead of 3 x 10⁻¹, at as few ticks as are needed."""
    axis.set_yscale('log')
    axis.yaxis.set_major_formatter(_PlainNumbers())
    axis.yaxis.set_minor_formatter(_PlainNumbers())


class _PlainNumbers(LogFormatter):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return f'{x:g}' if super().__call__(x, pos) else ''


def draw_cka(findings: Findings) -> Figure:
    """Draw linear CKA between the features before and after, per stage; beside it the debiased variant."""
    figure = Figure((7.2, 2.8), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    stages = list(findings.stages)
    for axis, cka in zip(axes, (DistortionMeter.cka, DistortionMeter.debiased_cka), strict=True):
        for method, look in styles(findings.methods).items():
            values = [cka(meters[method]) for meters in findings.stages.values()]
            axis.plot(range(len(stages)), values, label=_label(method), markersize=5, linewidth=1.3, **look)
        axis.set(xticks=range(len(stages)), xticklabels=stages, xlim=(-0.3, len(stages) - 0.7), xlabel='stage')
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
    figure = Figure((7.2, 0.9 + (0.16 * len(looks) + 0.16) * max(1, len(classes))), layout='constrained')
    axis = figure.subplots()
    for i, (method, look) in enumerate(looks.items()):
        mine = [row for row in rows if row['method'] == method]
        y = np.array([classes.index(row['class']) for row in mine]) + 0.18 * (i - (len(looks) - 1) / 2)
        quartiles = np.array([row['quartiles'] for row in mine]).reshape(-1, 2)
        axis.hlines(y, quartiles[:, 0], quartiles[:, 1], color=look['color'], linewidth=1.6)
        axis.plot([row['pixel_cosine'] for row in mine], y, marker=look['marker'], linestyle='', markersize=5,
                  color=look['color'], label=_label(method), markeredgecolor='white', markeredgewidth=0.5)
    axis.tick_params(axis='y', length=0)
    axis.grid(axis='x', color='0.9', linewidth=0.6)
    axis.set(yticks=range(len(classes)), yticklabels=classes, ylim=(len(classes) - 0.5, -0.5),
             xlabel=f'cosine similarity at the pixels of the class, stage {stage}: median and quartiles')
    figure.legend(loc='outside upper center', ncols=len(looks))
    return figure


def draw_sheet(
    scenes: Sequence[Scene], classes: Sequence[str], palette: Sequence[Sequence[int]], title: str,
    heat_range: tuple[float, float],
) -> Figure:
    """Draw a sheet: image, ground truth, predictions before and after, and where the features were distorted.

    The heat map's logarithmic scale has ``heat_range``, the same for all sheets that are to be compared. What lies
    beyond is drawn like the ends.
    """
    height, width = scenes[0].image.shape[:2]
    columns = 2 + len(scenes[0].predictions) + (scenes[0].truth is not None)
    scale = LogNorm(*heat_range)
    figure = Figure((0.9 + 1.75 * columns, 1.15 + (1.75 * height / width + 0.06) * len(scenes)), layout='constrained')
    figure.suptitle(title, fontsize=10.5, fontweight='bold')
    axes = figure.subplots(len(scenes), columns, squeeze=False)
    colors = np.asarray(palette, np.uint8).reshape(-1, 3)
    for row, scene in zip(axes, scenes, strict=True):
        draw_row(row[:-1], scene, colors, scene is scenes[0])
        row[-1].imshow(scene.image.mean(2), cmap='gray', interpolation='bilinear')
        extent = (-0.5, scene.image.shape[1] - 0.5, scene.image.shape[0] - 0.5, -0.5)
        row[-1].imshow(scene.heat.clip(*heat_range), cmap=_HEAT, norm=scale, alpha=0.75, extent=extent,
                       interpolation='nearest')
        _hide_scales(row[-1])
    axes[0, -1].set_title('distortion')
    bar = figure.colorbar(ScalarMappable(scale, _HEAT), ax=axes, location='right', shrink=0.5, aspect=30, pad=0.01)
    bar.set_label('1 - cosine similarity', fontsize=8)
    bar.ax.yaxis.set(major_formatter=_PlainNumbers(), minor_formatter=_PlainNumbers())
    if len(classes) == len(colors) and (scenes[0].truth is not None or scenes[0].predictions):
        draw_legend(figure, classes, colors, min(len(classes), 2 + columns), fontsize=7.5)
    return figure


def draw_row(axes: Sequence[Axes], scene: Scene, palette: NDArray[np.uint8], titled: bool) -> None:
    """Draw title, image, ground truth and predictions into as many axes; ids outside the palette become white."""
    colors = np.concatenate([palette, np.full((1, 3), 255, np.uint8)])
    pictures = {'image': scene.image}
    for name, ids in {'ground truth': scene.truth, **scene.predictions}.items():
        if ids is not None:
            pictures[name] = colors[np.where((ids >= 0) & (ids < len(palette)), ids, len(palette))]
    for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, interpolation='nearest')
        _hide_scales(axis)
        if titled:
            axis.set_title(name)
    axes[0].yaxis.set_visible(True)
    axes[0].set_yticks([])
    axes[0].set_ylabel(scene.title, fontsize=7.5)
    if scene.class_ is not None and scene.truth is not None:
        for color, line in (('black', 1.6), ('white', 0.8)):
            axes[0].contour(scene.truth == scene.class_, levels=[0.5], colors=color, linewidths=line)


def _hide_scales(axis: Axes) -> None:
    """Leave the frame alone. Scales without ticks would be measured and drawn, too, which takes the longest."""
    axis.xaxis.set_visible(False)
    axis.yaxis.set_visible(False)


def draw_legend(
    figure: Figure | SubFigure, classes: Sequence[str], colors: NDArray[np.uint8], columns: int, **options: float,
) -> None:
    """Name the classes below a figure, in so many columns."""
    handles = [Patch(facecolor=rgb / 255, edgecolor='black', linewidth=0.5, label=_label(name))
               for name, rgb in zip(classes, colors, strict=True)]
    figure.legend(handles=handles, loc='outside lower center', ncols=columns, **options)
