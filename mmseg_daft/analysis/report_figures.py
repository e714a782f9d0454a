"""The figures of a report, each with a title and a caption that says how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmseg_daft.analysis.change_figure import draw_changes, draw_drift
from mmseg_daft.analysis.contact_sheet import Scene, draw_sheet
from mmseg_daft.analysis.distribution_figure import draw_image_distributions, draw_pixel_distributions
from mmseg_daft.analysis.findings import Findings
from mmseg_daft.analysis.report import ReportFigure
from mmseg_daft.analysis.stage_figures import draw_cka, draw_classes
from mmseg_daft.analysis.styles import figure_style

Sheets = Mapping[tuple[str, bool], Sequence[Scene]]
"""By method and whether most distorted, the rows of a contact sheet."""

_MARKS = 'Marks above: medians with their 95 % bootstrap intervals over images.'


def report_figures(findings: Findings, sheets: Sheets, palette: Sequence[Sequence[int]]) -> Iterator[ReportFigure]:
    """Draw the figures one after the other.

    Args:
        findings: What they show.
        sheets: The contact sheets; an empty one is left out.
        palette: RGB of each class.
    """
    with figure_style():
        yield ReportFigure(
            'figure_1_images', 'Figure 1: features per image',
            'Cosine similarity and L2 distance of the feature of each image, a stage\'s map averaged over its pixels, '
            f'before and after fine-tuning. {_MARKS}', draw_image_distributions(findings))
        yield ReportFigure(
            'figure_1_pixels', 'Figure 1, per pixel',
            f'The same of the features at each position of the map, all positions of all images. {_MARKS}',
            draw_pixel_distributions(findings))
        if any(changes.changes for changes in findings.changes.values()):
            yield ReportFigure(
                'figure_2_parameters', 'Figure 2: relative change of the parameters',
                'The relative change ‖W̃ - W‖₂ / ‖W‖₂ of each layer (Eq. 6). W is what training began with; for '
                'converted runs that is the value after the conversion. Lower: less moved in fine-tuning.',
                draw_changes(findings))
        if any(changes.drift for changes in findings.changes.values()):
            yield ReportFigure(
                'bn_drift', 'BN drift', 'How far the running statistics of each BN layer moved in fine-tuning, '
                'averaged over channels: the means in standard deviations, the variances by the logarithm of their '
                'ratio.', draw_drift(findings))
        yield ReportFigure(
            'cka', 'Linear CKA by stage', 'Similarity of the representations of all images before and after: a second '
            'opinion that a rotation or scaling of the features leaves alone. With fewer images than channels the left '
            'one is too high.', draw_cka(findings))
        stage = list(findings.stages)[-1]
        if findings.classes:
            yield ReportFigure(
                'classes', 'Distortion by class', 'By the ground truth at each position of the map.',
                draw_classes(findings, stage))
        heat_range = _heat_range([scene for rows in sheets.values() for scene in rows])
        for (method, most), rows in sheets.items():
            if rows:
                which, numbers = ('most', '7, 9') if most else ('least', '6, 8')
                title = f'The {which} distorted images, {method}'
                by_class = rows[0].class_ is not None
                yield ReportFigure(
                    f'sheet_{slug(method)}_{which}', f'{title} (as Figures {numbers})',
                    (f'For each class the image whose pixels of the class (outlined) are {which} distorted on average. '
                     if by_class else 'Without ground truth: by the cosine similarity of whole images. ')
                    + f'Right: 1 - cosine similarity at each position of stage {stage}, on one logarithmic '
                    'scale for all sheets.',
                    draw_sheet(rows, findings.classes, palette, title, heat_range), photographs=True)


def _heat_range(scenes: Sequence[Scene]) -> tuple[float, float]:
    """From the least to the most distorted positions of all sheets, over three powers of ten at most."""
    top = max((float(np.quantile(scene.heat, 0.99)) for scene in scenes), default=0.0)
    low = min((float(np.quantile(scene.heat, 0.01)) for scene in scenes), default=0.0)
    top = max(top, 1e-6)
    return min(max(low, top / 1000), top / 2), top


def slug(name: str) -> str:
    """Return a name that suits a file."""
    return ''.join(c if c.isalnum() else '-' for c in name.lower())
