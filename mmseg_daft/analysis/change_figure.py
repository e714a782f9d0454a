"""Figure 2 of Ha, Jeong, Lee (AAAI 2024): relative change of each layer's parameters and statistics (Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from mmseg_daft.analysis.findings import Findings, MethodChanges
from mmseg_daft.analysis.styles import new_figure, styles
from mmseg_daft.core.distortion import KINDS, stage_of

_ON_A_LOG_SCALE = ('bn_mean', 'bn_variance')  # as in the paper
_SHORT = {'stem': 'IS'}  # the paper's name of the input stem


def draw_changes(findings: Findings) -> Figure:
    """Draw one panel a kind of tensor, methods side by side, layers in the order of the network."""
    kinds = [kind for kind in KINDS if any(changes.of_kind(kind) for changes in findings.changes.values())]
    figure = new_figure(7.2, 0.5 + 1.75 * len(kinds))
    axes = figure.subplots(len(kinds) or 1, 1, squeeze=False)[:, 0]
    for axis, kind in zip(axes, kinds, strict=False):
        draw_kind(axis, findings.changes, kind, styles(findings.methods))
    axes[-1].set_xlabel('layers in the order of the network, by stage (IS: input stem)')
    figure.legend(*_handles(axes), loc='outside upper center', ncols=len(findings.methods))
    return figure


def draw_kind(
    axis: Axes, changes: Mapping[str, MethodChanges], kind: str, looks: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw one kind of tensor; a tensor that did not change has no place on a log scale and is left out there."""
    series = {method: {tensor.layer: value for tensor, value in change.of_kind(kind).items()}
              for method, change in changes.items() if change.of_kind(kind)}
    log = kind in _ON_A_LOG_SCALE
    draw_layers(axis, series, looks, log)
    axis.set_title(f'{KINDS[kind].capitalize().replace("bn", "BN")}{" (log scale)" if log else ""}')
    axis.set_ylabel('relative change')


def draw_drift(findings: Findings) -> Figure:
    """Draw how far the statistics of each BN layer moved, in standard deviations and as a factor."""
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots(2, 1)
    looks = styles(findings.methods)
    for axis, measure, label in zip(axes, ('mean', 'log_variance'),
                                    ('mean shift (std. dev.)', '|ln variance ratio|'), strict=True):
        draw_layers(axis, {method: {layer: getattr(drift, measure) for layer, drift in change.drift.items()}
                           for method, change in findings.changes.items() if change.drift}, looks, log=True)
        axis.set_ylabel(label)
    axes[0].set_title('BN drift: running statistics before and after fine-tuning (log scale)')
    axes[1].set_xlabel('BN layers in the order of the network, by stage (IS: input stem)')
    figure.legend(*_handles(axes), loc='outside upper center', ncols=len(looks))
    return figure


def draw_layers(
    axis: Axes, series: Mapping[str, Mapping[str, float]], looks: Mapping[str, Mapping[str, Any]], log: bool,
) -> None:
    """Draw one line a method over layers, with the stages marked.

    Args:
        axis: Where to draw.
        series: By method, then by layer in the order of the network, the value.
        looks: By method, colour, marker and dashes.
        log: Whether on a log scale.
    """
    layers: Sequence[str] = max((list(values) for values in series.values()), key=len, default=[])
    place = {layer: i for i, layer in enumerate(layers)}
    for method, values in series.items():
        shown = [value if np.isfinite(value) and (value > 0 or not log) else np.nan for value in values.values()]
        look = looks[method]
        axis.plot([place[layer] for layer in values], shown, label=method, markersize=3.2, linewidth=1.1,
                  markeredgewidth=0, **look)
    stages = [stage_of(layer) for layer in layers]
    for i in range(1, len(stages)):
        if stages[i] != stages[i - 1]:
            axis.axvline(i - 0.5, color='0.8', linewidth=0.8, zorder=0)
    middles = {stage: np.mean([i for i, s in enumerate(stages) if s == stage]) for stage in dict.fromkeys(stages)}
    axis.set_xticks(list(middles.values()), [_SHORT.get(stage, stage) for stage in middles])
    axis.tick_params(axis='x', length=0)
    axis.margins(x=0.01)
    if log and any(value > 0 for values in series.values() for value in values.values()):
        axis.set_yscale('log')
        axis.yaxis.set_major_formatter(_PlainNumbers())
        axis.yaxis.set_minor_formatter(_PlainNumbers())
    elif not log:
        axis.set_ylim(bottom=0)


class _PlainNumbers(LogFormatter):
    """0.3 instead of 3 x 10⁻¹, at as few ticks as are needed."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f'{x:g}' if super().__call__(x, pos) else ''


def _handles(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)
