"""Learning-rate curves: the selecting metric over the swept rate, a panel per method and step."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg_daft.sweep.decision import Decision, Seen
from mmseg_daft.sweep.protocol import REPORT, Run

PAPER = {'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT', 'ft-conversion': 'FT + conversion',
         'lpft-conversion': 'LP-FT + conversion', 'integrated-lpft': 'integrated LP-FT'}
"""The methods' names in the paper, in its order."""
# Okabe and Ito's blue and vermilion: told apart by color-blind eyes and, as one is much darker, in gray.
LINE, BEST = '#0072B2', '#D55E00'


def draw_curves(decision: Decision, seen: Mapping[str, Seen], metric: str, path: Path) -> None:
    """Draw the steps of every method into one picture.

    Dots are runs, the line is the mean over seeds, a star is what won, a cross at the bottom is a rate that diverged.
    A step's panel also shows the earlier runs at the rate that it holds fixed: they compete, too.

    Args:
        decision: The runs, and those that won.
        seen: What is known of each run, by name.
        metric: Its name.
        path: Of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    selecting = [run for run in decision.runs if run.stage != REPORT]
    panels = list(dict.fromkeys((run.method, run.stage) for run in selecting))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines), layout='constrained')
    FigureCanvasAgg(figure)
    values = [seen[run.name].value for run in selecting if seen[run.name].value is not None] or [0, 1]
    margin = 0.08 * (max(values) - min(values)) or 1
    for number, (method, stage) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, number)
        here = [run for run in selecting if (run.method, run.stage) == (method, stage)]
        swept, fixed = 'backbone_lr', 'head_lr'
        if len({run.backbone_lr for run in here}) == 1:
            swept, fixed = fixed, swept
        held, both = getattr(here[0], fixed), swept == 'backbone_lr' and all(len({*run.rates}) == 1 for run in here)
        if not both:
            here += [run for run in selecting
                     if run.method == method and run.stage < stage and getattr(run, fixed) == held]
        _draw_panel(axes, here, seen, swept, decision.winners.get((method, stage)), min(values) - margin)
        axes.set_xscale('log')
        axes.set_ylim(min(values) - 1.8 * margin, max(values) + 1.8 * margin)
        axes.set_title(f'{PAPER.get(method, method)}, {stage.replace("step", "step ")}'
                       f'{"" if both else f", {fixed} {held:g}"}', fontsize=10)
        axes.set_xlabel('both rates' if both else swept, fontsize=9)
        axes.set_ylabel(f'{metric} % on the held-out images', fontsize=8)
        axes.grid(True, color='0.9', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_panel(
    axes: Any, runs: Sequence[Run], seen: Mapping[str, Seen], swept: str, winner: Run | None, bottom: float,
) -> None:
    points = [(getattr(run, swept), seen[run.name].value) for run in runs if seen[run.name].value is not None]
    rates = sorted({rate for rate, _ in points})
    means = [statistics.fmean(value for other, value in points if other == rate) for rate in rates]
    axes.plot(rates, means, '-', color=LINE, linewidth=1.5)
    axes.plot([rate for rate, _ in points], [value for _, value in points], 'o', color=LINE, markersize=4)
    diverged = {getattr(run, swept) for run in runs if seen[run.name].diverged}
    axes.plot([*diverged], [bottom] * len(diverged), 'x', color='black', markersize=7, markeredgewidth=1.8)
    for rate in diverged:
        axes.annotate('diverged', (rate, bottom), xytext=(0, 6), textcoords='offset points', ha='center', fontsize=7)
    best = [seen[run.name].value for run in runs if winner and run.rates == winner.rates]
    if winner and best:
        star = getattr(winner, swept), statistics.fmean(best)
        axes.plot(*star, '*', color=BEST, markersize=14, markeredgecolor='black', markeredgewidth=0.6)
        axes.annotate(f'{star[1]:.2f}', star, xytext=(0, 9), textcoords='offset points', ha='center', fontsize=8,
                      fontweight='bold')
