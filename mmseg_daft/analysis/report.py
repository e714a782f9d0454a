"""Write findings down: one HTML file with everything in it, and beside it figures and numbers.csv."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from mmseg_daft.analysis import figures as draw
from mmseg_daft.analysis.contact_sheet import draw_sheet
from mmseg_daft.analysis.findings import Findings, Scene
from mmseg_daft.analysis.measure import Progress
from mmseg_daft.analysis.meter import Median
from mmseg_daft.analysis.numbers_file import write_numbers
from mmseg_daft.core.distortion import KINDS
from mmseg_daft.files import read_json, write_atomically

_MADE_FROM = 'made_from.json'
_MARKS = 'Marks above: medians with their 95 % bootstrap intervals over images.'


def refuse_other_report(folder: Path, report: str, made_from: Mapping[str, Any]) -> None:
    """Check that a folder holds no report, or one that was made from the same.

    Args:
        folder: Where a report is to be written.
        report: Its main file.
        made_from: What it is made from: config, models and data.

    Raises:
        ValueError: It holds a report of something else.
    """
    if (folder / report).exists():
        before = read_json(folder / _MADE_FROM) or {}
        other = [key for key in made_from if before.get(key) != made_from[key]]
        if other:
            raise ValueError(f'{folder} holds a report of another {other[0]} ({before.get(other[0], "unknown")}, not '
                             f'{made_from[other[0]]}). Name another folder with --out.')


def note_origin(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Note what a report is made from, for ``refuse_other_report``."""
    write_atomically(folder / _MADE_FROM, made_from)


def write_report(out: Path, findings: Findings, formats: Sequence[str], progress: Progress) -> None:
    """Write ``report.html``, ``numbers.csv`` and ``figures/``.

    Args:
        out: The folder.
        findings: What is told.
        formats: Of the figures' files.
        progress: Told of the progress.
    """
    (out / 'figures').mkdir(parents=True, exist_ok=True)
    with draw.figure_style():
        figures = list(report_figures(findings))
    for done, figure in enumerate(figures, start=1):
        draw.save_figure(figure.figure, out / 'figures', figure.name, formats)
        progress('Draw figures', done, len(figures))
    write_numbers(findings, out / 'numbers.csv')
    source = (files('mmseg_daft.analysis') / 'report.html.j2').read_text(encoding='utf-8')
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    write_atomically(out / 'report.html', template.render(
        title=f'Feature distortion: {", ".join(findings.methods)}', notes=findings.notes, figures=figures,
        tables=tables(findings)))


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        name: Of its files, without suffix.
        title: Above it.
        caption: Below it: what it shows, and how to read it.
        figure: The figure.
        photographs: Whether it holds images: then it is embedded as PNG, otherwise as SVG.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    photographs: bool = False

    @property
    def source(self) -> str:
        """The figure as an address that holds its own data."""
        buffer = io.BytesIO()
        suffix, mime = ('png', 'image/png') if self.photographs else ('svg', 'image/svg+xml')
        self.figure.savefig(buffer, format=suffix, metadata=None if self.photographs else {'Date': None})
        return f'data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def report_figures(findings: Findings) -> Iterator[ReportFigure]:
    """Draw the figures one after the other, each with a caption that says how to read it."""
    yield ReportFigure(
        'figure_1_images', 'Figure 1: features per image',
        'Cosine similarity and L2 distance of the feature of each image, a stage\'s map averaged over its pixels, '
        f'before and after fine-tuning. {_MARKS}', draw.draw_image_distributions(findings))
    yield ReportFigure(
        'figure_1_pixels', 'Figure 1, per pixel',
        f'The same of the features at each position of the map, all positions of all images. {_MARKS}',
        draw.draw_pixel_distributions(findings))
    if any(changes.changes for changes in findings.changes.values()):
        yield ReportFigure(
            'figure_2_parameters', 'Figure 2: relative change of the parameters',
            'The relative change ‖W̃ - W‖₂ / ‖W‖₂ of each layer (Eq. 6). W is what training began with; for '
            'converted runs that is the value after the conversion. Lower: less moved in fine-tuning.',
            draw.draw_changes(findings))
    if any(changes.drift for changes in findings.changes.values()):
        yield ReportFigure(
            'bn_drift', 'BN drift', 'How far the running statistics of each BN layer moved in fine-tuning, averaged '
            'over channels: the means in standard deviations, the variances by the logarithm of their ratio.',
            draw.draw_drift(findings))
    yield ReportFigure(
        'cka', 'Linear CKA by stage', 'Similarity of the representations of all images before and after: a second '
        'opinion that a rotation or scaling of the features leaves alone. With fewer images than channels the left '
        'one is too high.', draw.draw_cka(findings))
    stage = list(findings.stages)[-1]
    if findings.classes:
        yield ReportFigure('classes', 'Distortion by class', 'By the ground truth at each position of the map.',
                           draw.draw_classes(findings, stage))
    heat_range = _heat_range([scene for rows in findings.sheets.values() for scene in rows])
    for (method, most), rows in findings.sheets.items():
        if rows:
            which, numbers = ('most', '7, 9') if most else ('least', '6, 8')
            title = f'The {which} distorted images, {method}'
            chosen = (f'For each class the image whose pixels of the class (outlined) are {which} distorted on average.'
                      if findings.classes else 'Without ground truth: by the cosine similarity of whole images.')
            yield ReportFigure(
                f'sheet_{slug(method)}_{which}', f'{title} (as Figures {numbers})',
                f'{chosen} Right: 1 - cosine similarity at each position of stage {stage}, on one logarithmic scale '
                'for all sheets.',
                draw_sheet(rows, findings.classes, findings.palette, title, heat_range), photographs=True)


def _heat_range(scenes: Sequence[Scene]) -> tuple[float, float]:
    """From the least to the most distorted positions of all sheets, over three powers of ten at most."""
    top = max((float(np.quantile(scene.heat, 0.99)) for scene in scenes), default=0.0)
    low = min((float(np.quantile(scene.heat, 0.01)) for scene in scenes), default=0.0)
    top = max(top, 1e-6)
    return min(max(low, top / 1000), top / 2), top


def slug(name: str) -> str:
    """Return a name that suits a file."""
    return ''.join(c if c.isalnum() else '-' for c in name.lower())


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        title: Above it.
        heads: One text for each column.
        rows: Cells: texts, numbers, medians with their interval.
        note: Below it.
        long: Whether it begins folded.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ''
    long: bool = False

    @property
    def cells(self) -> list[list[tuple[str, str, object]]]:
        """Each cell's text, its interval or '', and what it is sorted by."""
        return [[(*shown(cell).partition(' [')[::2], _key(cell)) for cell in row] for row in self.rows]

    @property
    def texts(self) -> list[bool]:
        """Which columns hold words, to be set left."""
        return [any(isinstance(row[i], str) and not row[i].isdigit() for row in self.rows)
                for i in range(len(self.heads))]


def tables(findings: Findings) -> list[Table]:
    """Return the report's tables: methods and stages, parameters, classes, images, layers."""
    made = [
        _table('Feature distortion', findings.summary(), {
            'method': 'method', 'stage': 'stage', 'images': 'images', 'cosine': 'cosine similarity, per image',
            'l2': 'L2 distance, per image', 'pixel_cosine': 'cosine similarity, per pixel',
            'pixel_l2': 'L2 distance, per pixel', 'cka': 'linear CKA', 'debiased_cka': 'CKA, debiased'},
            'Medians with 95 % bootstrap intervals over images. Per image: of the map averaged over its pixels; exact. '
            'Per pixel: at every position of the map; counted in bins of 0.0005 (cosine) and 1 % (L2), so right to '
            'that. Fewer than five images have no interval. 1, 0 and 1 mean that nothing moved. Linear CKA is too high '
            'for fewer images than channels; the debiased variant is not, and can be below 0.'),
        _table('Parameters and statistics', findings.change_summary(), {
            'method': 'method', **KINDS, 'mean_drift': 'mean drift', 'variance_drift': 'variance drift',
            'reference': 'W, the value before'},
            'Medians over layers of the relative change ‖W̃ - W‖₂ / ‖W‖₂ (Eq. 6), and of the BN drift: by how many '
            'standard deviations the running means moved, and |ln| of the ratio of variances.')]
    if findings.classes:
        made.append(_table('Classes', findings.class_summary(), {
            'class': 'class', 'method': 'method', 'stage': 'stage', 'images': 'images', 'pixels': 'pixels',
            'pixel_cosine': 'cosine similarity, per pixel', 'pixel_l2': 'L2 distance, per pixel',
            'image_cosine': 'cosine similarity, mean per image'},
            'Over the positions whose ground truth is the class; medians, the last with its interval over images.',
            long=True))
    return [
        *made,
        Table('Images', ('image', 'method', 'stage', 'cosine similarity', 'L2 distance',
                         'mean cosine similarity of pixels'),
              [(findings.images[image.image], method, stage, image.cosine_similarity, image.l2_distance,
                image.pixel_cosine) for stage, meters in findings.stages.items() for method, meter in meters.items()
               for image in meter.images], long=True),
        Table('Layers', ('layer', 'stage', 'tensor', 'method', 'relative change'),
              [(tensor.layer, tensor.stage, KINDS[tensor.kind], method, change)
               for method, changes in findings.changes.items() for tensor, change in changes.changes.items()],
              long=True)]


def _table(
    title: str, rows: Sequence[Mapping[str, object]], heads: Mapping[str, str], note: str, long: bool = False,
) -> Table:
    return Table(title, list(heads.values()), [[row[key] for key in heads] for row in rows], note, long)


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


def _key(cell: object) -> object:
    value = cell.value if isinstance(cell, Median) else cell
    if isinstance(value, float) and not math.isfinite(value):
        return '' if math.isnan(value) else math.copysign(1e308, value)  # as JavaScript reads numbers
    return value
