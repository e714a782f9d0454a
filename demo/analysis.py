"""The demo's measurements: what fine-tuning did to the source model, as report and picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console

import mmseg_daft  # noqa: F401  (repairs what mmseg needs, so it comes first)

# isort: split
from demo.picture import draw_comparison
from demo.runs import Demo
from mmseg_daft.analysis.findings import Findings, Scene
from mmseg_daft.analysis.measure import measure
from mmseg_daft.analysis.report import write_report
from mmseg_daft.datasets import ShapesDataset


def compare(demo: Demo, names: Mapping[str, str], out: Path, console: Console) -> Findings:
    """Compare each method with the source model on the target's validation images, and write the report.

    As ``mmseg-daft analyze`` does with the same models.
    """
    runs = {names[run]: demo.checkpoint(run) for run in demo.methods}
    findings = measure(
        demo.config('ft'), runs, demo.checkpoint('source'), split='val', batch_size=8, workers=0, console=console)
    write_report(out, findings, ('png',), console)
    return findings


def draw(demo: Demo, names: Mapping[str, str], findings: Findings, path: Path, rows: int = 4) -> None:
    """Draw the picture, with the first validation images of the target as examples."""
    root = demo.folder / 'data' / 'target'
    listing = (root / 'ImageSets' / 'Segmentation' / 'val.txt').read_text(encoding='utf-8').split()
    titles = {run: names[run] for run in ('source', *demo.methods)}
    scenes = [
        Scene(
            title=name,
            image=cv2.cvtColor(cv2.imread(str(root / 'JPEGImages' / f'{name}.jpg')), cv2.COLOR_BGR2RGB),
            truth=_read_ids(root / 'SegmentationClass' / f'{name}.png'),
            predictions={
                title: _read_ids(demo.predictions(run, 'target') / f'{name}.png') for run, title in titles.items()})
        for name in listing[:rows]]
    draw_comparison(
        scenes, findings, ShapesDataset.METAINFO['palette'],
        'The first validation images of the target domain, as each model sees them', path)


def _read_ids(path: Path) -> Any:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
