"""The domain gap in one figure: the divergence at each layer, by stage, and how far the source serves the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mmseg_daft.analysis.gap_verdict import Competence

# Okabe and Ito's colours keep apart for the colour-blind; markers tell the same in grey.
_PARTS = {
    'mean_divergence': dict(color='#0072B2', marker='s', linestyle='-', label='of means'),
    'var_divergence': dict(color='#D55E00', marker='o', linestyle='--', label='of variances')}
_OTHER = dict(color='0.55', marker='x', linestyle=':')
_FLOOR = 1e-4  # nats; less is drawn there


def draw_gap(
    rows: Sequence[Mapping[str, Any]],
    competence: Competence | None,
    path: Path,
    other: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Draw the figure and write it as PNG.

    Args:
        rows: A row of numbers for each layer, as of ``layer_rows``.
        competence: What was measured of the features, or ``None``.
        path: The file to write.
        other: Rows of another report of the same layers, for comparison.
    """
    with matplotlib.rc_context({'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False}):
        figure = Figure(figsize=(11, 4.2), layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2, width_ratios=[2.6, 1]) if competence else [figure.subplots()]
        _draw_layers(axes[0], rows, other)
        if competence:
            _draw_competence(axes[1], competence)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def _draw_layers(axis: Axes, rows: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]] | None) -> None:
    x = np.arange(len(rows))
    if other and [row['layer'] for row in other] == [row['layer'] for row in rows]:
        axis.plot(x, [max(row['divergence'], _FLOOR) for row in other], markersize=4, linewidth=1,
                  label='whole, in the other report', **_OTHER)
    for part, style in _PARTS.items():
        axis.plot(x, [max(row[part], _FLOOR) for row in rows], markersize=4, linewidth=1.2, **style)
    stages = [row['stage'] for row in rows]
    for i in range(1, len(stages)):
        if stages[i] != stages[i - 1]:
            axis.axvline(i - 0.5, color='0.85', linewidth=0.8, zorder=0)
    middles = {stage: np.mean([i for i, s in enumerate(stages) if s == stage]) for stage in stages}
    axis.set_xticks(list(middles.values()), list(middles))
    axis.tick_params(axis='x', length=0)
    axis.set_yscale('log')
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter('{x:g}')
    axis.yaxis.set_minor_formatter('')
    axis.set_xlabel('batch-norm layers, by stage')
    axis.set_ylabel("Jeffreys' divergence in nats\n(median over channels)")
    axis.set_title('Gap between source and target statistics')
    axis.legend(frameon=False)


def _draw_competence(axis: Axes, measured: Competence) -> None:
    bars = {'features as the\nsource has them': (measured.source, '#0072B2', ''),
            'features with\nadapted statistics': (measured.adapted, '#56B4E9', '//')}
    if measured.head is not None:
        bars['source decoder'] = (measured.head, '#E69F00', '..')
    for i, (value, colour, hatch) in enumerate(bars.values()):
        axis.barh(i, value, color=colour, hatch=hatch, edgecolor='white', height=0.6)
        axis.text(value + 0.02, i, f'{value:.0%}', va='center')
    chance = 1 / measured.classes
    axis.axvline(chance, color='black', linewidth=1, linestyle=':')
    axis.text(chance + 0.02, -0.52, 'chance', fontsize=8)
    axis.set_yticks(range(len(bars)), list(bars))
    axis.set_ylim(len(bars) - 0.5, -0.7)
    axis.set_xlim(0, 1)
    axis.tick_params(axis='y', length=0)
    axis.set_xlabel('balanced accuracy on target pixels')
    axis.set_title('How far they serve')
