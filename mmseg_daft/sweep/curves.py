"""The picture of a sweep's steps: curves.png."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg_daft.sweep.protocol import PAPER, RATES, REPORT, Decision, Run, rate_text

# Okabe and Ito's blue and vermilion: told apart by color-blind eyes and, as one is much darker, in gray.
LINE, BEST = '#0072B2', '#D55E00'
STYLE = {'font.size': 8, 'axes.titlesize': 10, 'axes.spines.top': False, 'axes.spines.right': False,
         'axes.grid': True, 'axes.axisbelow': True, 'grid.color': '0.9', 'grid.linewidth': 0.6}


def draw_curves(decision: Decision, metric: str, path: Path, images: str = 'held-out images') -> None:
    """Draw the steps of every method into one picture.

    Dots are runs, the line is the mean over seeds, a star is what won, a cross at the bottom is a run without a
    value, which diverged, failed or is yet to end. A step's panel also shows the earlier runs at the rate that it holds
    fixed: they compete, too.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    selecting = [run for run in decision.runs if run.stage != REPORT]
    panels = list(dict.fromkeys((run.method, run.stage) for run in selecting))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    values = [decision.look(run).value for run in selecting if decision.look(run).value is not None] or [0, 1]
    margin = 0.08 * (max(values) - min(values)) or 1
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines), layout='constrained')
    with rc_context(STYLE):
        for number, (method, stage) in enumerate(panels, start=1):
            here = [run for run in selecting if (run.method, run.stage) == (method, stage)]
            swept, fixed = RATES if len({run.backbone_lr for run in here}) > 1 else RATES[::-1]
            held, both = getattr(here[0], fixed), swept == 'backbone_lr' and all(len({*run.rates}) == 1 for run in here)
            if not both:
                here = [run for run in decision.rivals[method, stage] if getattr(run, fixed) == held]
            probe = not any(here[0].rates)
            axes = figure.add_subplot(
                lines, columns, number, xscale='linear' if probe else 'log',
                ylim=(min(values) - 1.8 * margin, max(values) + 1.8 * margin),
                xlabel='no rate' if probe else 'both rates' if both else swept,
                title=f'{PAPER[method]}, {stage.replace("step", "step ")}'
                      f'{"" if both or probe else f", {fixed} {rate_text(held)}"}')
            axes.set_ylabel(f'{metric} % on the {images}', parse_math=False)
            _draw_panel(axes, decision, here, swept, decision.winners.get((method, stage)), min(values) - margin)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def _draw_panel(
    axes: Any, decision: Decision, runs: Sequence[Run], swept: str, winner: Run | None, bottom: float,
) -> None:
    points = [(getattr(run, swept), decision.look(run)) for run in runs]
    values = [(rate, seen.value) for rate, seen in points if seen.value is not None]
    means = {rate: statistics.fmean(v for other, v in values if other == rate) for rate in sorted(dict(values))}
    axes.plot([*means], [*means.values()], '-', color=LINE, linewidth=1.5)
    axes.plot([rate for rate, _ in values], [value for _, value in values], 'o', color=LINE, markersize=4)
    for rate, state in {(rate, seen.state) for rate, seen in points if seen.value is None}:
        axes.plot(rate, bottom, 'x', color='black', markersize=7, markeredgewidth=1.8)
        axes.annotate(state, (rate, bottom), xytext=(0, 6), textcoords='offset points', ha='center', fontsize=7,
                      rotation=90)
    if winner:
        star = getattr(winner, swept), means[getattr(winner, swept)]
        axes.plot(*star, '*', color=BEST, markersize=14, markeredgecolor='black', markeredgewidth=0.6)
        axes.annotate(f'{star[1]:.2f}', star, xytext=(0, 9), textcoords='offset points', ha='center',
                      fontweight='bold')
