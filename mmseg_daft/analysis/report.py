"""Write findings down: report.html with everything in it, and beside it figures and numbers.csv."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from mmseg_daft.analysis import figures as draw
from mmseg_daft.analysis.findings import Findings, Scene
from mmseg_daft.analysis.meter import Median
from mmseg_daft.analysis.numbers_file import COLUMNS, number_rows, write_csv
from mmseg_daft.core.distortion import KINDS
from mmseg_daft.files import read_json, write_atomically

MADE_FROM = 'made_from.json'
"""The file that says what a report was made from."""


def refuse_other_report(folder: Path, report: str, made_from: Mapping[str, Any]) -> None:
    """Check that a folder holds no such report, or one that was made from the same config, models and data.

    Raises:
        ValueError: It holds a report of something else.
    """
    before = read_json(folder / MADE_FROM) or {}
    other = [key for key in made_from if before.get(key) != made_from[key]]
    if other and (folder / report).exists():
        raise ValueError(f'{folder} holds a report of another {other[0]} ({before.get(other[0], "unknown")}, not '
                         f'{made_from[other[0]]}). Name another folder with --out.')


def write_report(out: Path, findings: Findings, formats: Sequence[str], console: Console | None = None) -> None:
    """Write ``report.html``, ``numbers.csv`` and ``figures/``; their titles and captions are the template's."""
    (out / 'figures').mkdir(parents=True, exist_ok=True)
    sources = {}
    with draw.figure_style():
        for name, figure in track(report_figures(findings).items(), 'Draw figures', console=console,
                                  disable=console is None):
            draw.save_figure(figure, out / 'figures', name, formats)
            sources[name] = _source(figure, 'png' if name.startswith('sheet_') else 'svg')
    write_csv(out / 'numbers.csv', COLUMNS, number_rows(findings))
    environment = Environment(loader=PackageLoader('mmseg_daft', 'analysis'), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(shown=shown, sort_key=_sort_key, slug=slug)
    write_atomically(out / 'report.html', environment.get_template('report.html.j2').render(
        findings=findings, sources=sources, kinds=KINDS, last_stage=list(findings.stages)[-1]))


def report_figures(findings: Findings) -> dict[str, Figure]:
    """Draw the report's figures, by the name of their files."""
    drawn = {'figure_1_images': draw.draw_distributions(findings, pixels=False),
             'figure_1_pixels': draw.draw_distributions(findings, pixels=True)}
    if any(changes.changes for changes in findings.changes.values()):
        drawn['figure_2_parameters'] = draw.draw_changes(findings)
    if any(changes.drift for changes in findings.changes.values()):
        drawn['bn_drift'] = draw.draw_drift(findings)
    drawn['cka'] = draw.draw_cka(findings)
    if findings.classes:
        drawn['classes'] = draw.draw_classes(findings, list(findings.stages)[-1])
    heat_range = _heat_range([scene for rows in findings.sheets.values() for scene in rows])
    for (method, which), rows in findings.sheets.items():
        drawn[f'sheet_{slug(method)}_{which}'] = draw.draw_sheet(
            rows, findings.classes, findings.palette, f'The {which} distorted images, {method}', heat_range)
    return drawn


def _heat_range(scenes: Sequence[Scene]) -> tuple[float, float]:
    """From the least to the most distorted positions of all sheets, over three powers of ten at most."""
    top = float(max([1e-6, *(np.quantile(scene.heat, 0.99) for scene in scenes)]))
    low = float(min([top / 2, *(np.quantile(scene.heat, 0.01) for scene in scenes)]))
    return max(low, top / 1000), top


def _source(figure: Figure, suffix: str) -> str:
    """Return a figure as an address that holds its own data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, metadata=draw.UNDATED.get(suffix))
    mime = {'svg': 'image/svg+xml', 'png': 'image/png'}[suffix]
    return f'data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def slug(name: str) -> str:
    """Return a name that suits a file."""
    return ''.join(c if c.isalnum() else '-' for c in name.lower())


def shown(cell: object) -> str:
    """Return a cell's text; NaN is a dash."""
    if isinstance(cell, Median):
        if not math.isfinite(cell.low):
            return shown(cell.value)
        return f'{shown(cell.value)} [{shown(cell.low)}, {shown(cell.high)}]'
    if isinstance(cell, float):
        if math.isnan(cell):
            return '–'
        return f'{cell:.4f}' if cell == 0 or 0.001 <= abs(cell) < 100 else f'{cell:.3g}'
    return str(cell)


def _sort_key(cell: object) -> object:
    value = cell.value if isinstance(cell, Median) else cell
    if isinstance(value, float) and not math.isfinite(value):
        return '' if math.isnan(value) else math.copysign(1e308, value)  # as JavaScript reads numbers
    return value
