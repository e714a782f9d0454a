"""One look for all figures: colours that the colour-blind tell apart, markers and dashes that grey does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), from dark to light among the first four, each with a marker and dashes of its own.
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


def styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour, marker and dashes of each method; the paper's methods have the same in every figure."""
    fixed = {method: _USUAL[method] for method in methods if method in _USUAL}
    free = [i for i in range(len(_STYLES)) if i not in fixed.values()]
    rest = [method for method in methods if method not in fixed]
    fixed.update({method: free[i % len(free)] for i, method in enumerate(rest)})
    return {method: _STYLES[fixed[method]] for method in methods}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in this project's look; the user's settings of matplotlib are restored afterwards."""
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
