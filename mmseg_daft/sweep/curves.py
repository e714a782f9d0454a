"""Learning-rate curves: the selecting metric over the swept rate, a panel per method and step."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg_daft.sweep.results import PAPER

# Okabe and Ito's blue and vermilion: told apart by colour-blind eyes and, as one is much darker, in grey.
LINE, BEST = '#0072B2', '#D55E00'


def draw_curves(
    rows: Sequence[Mapping[str, Any]], winners: Mapping[tuple[str, str], tuple[float, float]], metric: str,
    path: Path,
) -> None:
    """Draw the steps of every method into one picture.

    Dots are runs, the line is the mean over seeds, a star is what won, a cross at the bottom is a rate that diverged.
    A step's panel also shows the earlier runs at the rate that it holds fixed: they compete, too.

    Args:
        rows: Of the runs, as of ``results.COLUMNS``.
        winners: ``backbone_lr`` and ``head_lr`` by method and step.
        metric: Its name.
        path: Of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row['method'], row['stage']) for row in rows if row['stage'] != 'report'))
    if not panels:
        return
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines), layout='constrained')
    FigureCanvasAgg(figure)
    values = [row['value'] for row in rows if row['stage'] != 'report' and row['value'] is not None]
    low, high = (min(values), max(values)) if values else (0, 1)
    margin = 0.08 * (high - low) or 1
    for number, (method, stage) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, number + 1)
        here = [row for row in rows if (row['method'], row['stage']) == (method, stage)]
        swept = 'head_lr' if len({row['backbone_lr'] for row in here}) == 1 else 'backbone_lr'
        both = swept == 'backbone_lr' and all(row['backbone_lr'] == row['head_lr'] for row in here)
        fixed = 'head_lr' if swept == 'backbone_lr' else 'backbone_lr'
        if not both:
            here += [row for row in rows if row['method'] == method and row['stage'] < stage
                     and row['stage'] != 'report' and row[fixed] == here[0][fixed]]
        _panel(axes, here, swept, low - margin)
        _mark_winner(axes, here, winners.get((method, stage)), swept)
        axes.set_xscale('log')
        axes.set_ylim(low - 1.8 * margin, high + 1.8 * margin)
        held = '' if both else f', {fixed} {here[0][fixed]:g}'
        axes.set_title(f'{PAPER.get(method, method)}, {stage.replace("step", "step ")}{held}', fontsize=10)
        axes.set_xlabel('both rates' if both else swept, fontsize=9)
        axes.set_ylabel(f'{metric} % on the held-out images', fontsize=8)
        axes.grid(True, color='0.9', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, rows: Sequence[Mapping[str, Any]], swept: str, bottom: float) -> None:
    by_rate: dict[float, list[float]] = {}
    for row in rows:
        if row['value'] is not None:
            by_rate.setdefault(row[swept], []).append(row['value'])
    rates = sorted(by_rate)
    axes.plot(rates, [statistics.fmean(by_rate[rate]) for rate in rates], '-', color=LINE, linewidth=1.5)
    axes.plot([rate for rate in rates for _ in by_rate[rate]], [v for rate in rates for v in by_rate[rate]], 'o',
              color=LINE, markersize=4)
    diverged = sorted({row[swept] for row in rows if row['state'] == 'diverged'})
    axes.plot(diverged, [bottom] * len(diverged), 'x', color='black', markersize=7, markeredgewidth=1.8)
    for rate in diverged:
        axes.annotate('diverged', (rate, bottom), xytext=(0, 6), textcoords='offset points', ha='center', fontsize=7)


def _mark_winner(
    axes: Any, rows: Sequence[Mapping[str, Any]], won: tuple[float, float] | None, swept: str,
) -> None:
    best = [row for row in rows if (row['backbone_lr'], row['head_lr']) == won and row['value'] is not None]
    if not best:
        return
    mean = statistics.fmean(row['value'] for row in best)
    axes.plot([best[0][swept]], [mean], '*', color=BEST, markersize=14, markeredgecolor='black', markeredgewidth=0.6)
    axes.annotate(f'{mean:.2f}', (best[0][swept], mean), xytext=(0, 9), textcoords='offset points', ha='center',
                  fontsize=8, fontweight='bold')

