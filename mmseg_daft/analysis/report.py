"""One HTML file with everything: figures embedded, tables that sort, nothing from the network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from mmseg_daft.analysis.bootstrap import Median
from mmseg_daft.analysis.findings import Findings
from mmseg_daft.core.distortion import KINDS


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


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        title: Above it.
        heads: One text a column.
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


def write_report(path: Path, title: str, findings: Findings, figures: Sequence[ReportFigure]) -> None:
    """Write the report.

    Args:
        path: Where to.
        title: Of the page.
        findings: What it tells.
        figures: In their order.
    """
    source = (files('mmseg_daft.analysis') / 'report.html.j2').read_text(encoding='utf-8')
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    html = template.render(title=title, notes=findings.notes, figures=figures, tables=tables(findings))
    path.write_text(html, encoding='utf-8')


def tables(findings: Findings) -> list[Table]:
    """Return the report's tables: methods and stages, parameters, classes, images, layers."""
    made = [Table(
        'Feature distortion',
        ('method', 'stage', 'images', 'cosine similarity, per image', 'L2 distance, per image',
         'cosine similarity, per pixel', 'L2 distance, per pixel', 'linear CKA', 'CKA, debiased'),
        [[row[key] for key in ('method', 'stage', 'images', 'cosine', 'l2', 'pixel_cosine', 'pixel_l2', 'cka',
                               'debiased_cka')] for row in findings.summary()],
        'Medians with 95 % bootstrap intervals over images. Per image: of the map averaged over its pixels; exact. '
        'Per pixel: at every position of the map; counted in bins of 0.0005 (cosine) and 1 % (L2), so right to that. '
        'Fewer than five images have no interval. 1, 0 and 1 mean that nothing moved. Linear CKA is too high for fewer '
        'images than channels; the debiased variant is not, and can be below 0.')]
    made.append(Table(
        'Parameters and statistics',
        ('method', *KINDS.values(), 'mean drift', 'variance drift', 'W, the value before'),
        [[row[key] for key in ('method', *KINDS, 'mean_drift', 'variance_drift', 'reference')]
         for row in findings.change_summary()],
        'Medians over layers of the relative change ‖W̃ - W‖₂ / ‖W‖₂ (Eq. 6), and of the BN drift: by how many standard '
        'deviations the running means moved, and |ln| of the ratio of variances.'))
    if findings.classes:
        made.append(Table(
            'Classes', ('class', 'method', 'stage', 'images', 'pixels', 'cosine similarity, per pixel',
                        'L2 distance, per pixel', 'cosine similarity, mean per image'),
            [[row[key] for key in ('class', 'method', 'stage', 'images', 'pixels', 'pixel_cosine', 'pixel_l2',
                                   'image_cosine')] for row in findings.class_summary()],
            'Over the positions whose ground truth is the class; medians, the last with its interval over images.',
            long=True))
    made.append(Table(
        'Images', ('image', 'method', 'stage', 'cosine similarity', 'L2 distance', 'mean cosine similarity of pixels'),
        [(findings.images[image.image], method, stage, image.cosine_similarity, image.l2_distance, image.pixel_cosine)
         for stage, meter in findings.stages.items() for method, mine in meter.methods.items()
         for image in mine.images], long=True))
    made.append(Table(
        'Layers', ('layer', 'stage', 'tensor', 'method', 'relative change'),
        [(tensor.layer, tensor.stage, KINDS[tensor.kind], method, change)
         for method, changes in findings.changes.items() for tensor, change in changes.changes.items()], long=True))
    return made


def shown(cell: object) -> str:
    """Return a cell's text; a number that is none is a dash."""
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
