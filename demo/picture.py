"""The demo's picture: what each model predicts, and what fine-tuning did to it."""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demo import NAMES
from demo.runs import Demo
from mmseg_daft.analysis.figures import draw_kind, draw_legend, draw_row, figure_style, save_figure, styles
from mmseg_daft.analysis.findings import Findings, Scene


def draw_picture(demo: Demo, findings: Findings, path: Path, rows: int = 4) -> None:
    """Draw the picture and write it as PNG.

    Above are the target's first validation images as each model sees them. Below are the relative change of the
    batch-norm statistics per layer (the paper's Figure 2) and the similarity of images' features (its Figure 1).
    """
    with figure_style():
        figure = Figure((10, 1.75 * rows + 5.2), layout='constrained')
        figure.suptitle('The first validation images of the target domain, as each model sees them',
                        fontsize=12, fontweight='bold')
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.75 * rows + 0.7, 4.0), hspace=0.02)
        colors = np.asarray(findings.palette, np.uint8)
        scenes = [_scene(demo, Path(name).stem) for name in findings.images[:rows]]
        for row, scene in zip(top.subplots(rows, 3 + len(demo.methods), squeeze=False), scenes, strict=True):
            draw_row(row, scene, colors, scene is scenes[0])
        draw_legend(top, findings.classes, colors, len(findings.classes))
        bottom.suptitle('What fine-tuning did to the backbone', fontsize=12, fontweight='bold')
        axes = bottom.subplots(1, 3, width_ratios=(3, 3, 2))
        for axis, kind in zip(axes[:2], ('bn_mean', 'bn_variance'), strict=True):
            draw_kind(axis, findings, kind)
            axis.set_xlabel('BN layers, by stage (IS: input stem)')
            axis.legend()
        _draw_similarities(axes[2], findings)
        save_figure(figure, path.parent, path.stem, ['png'])


def _scene(demo: Demo, name: str) -> Scene:
    """Read an image of the target with its ground truth and the predictions of all models."""
    root = demo.folder / 'data' / 'target'
    maps = {'truth': root / 'SegmentationClass' / f'{name}.png'}
    for run in ('source', *demo.methods):
        maps[NAMES[run]] = demo.folder / run / 'test_target' / 'predictions' / f'{name}.png'
    ids = {title: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for title, path in maps.items()}
    return Scene(name, cv2.imread(str(root / 'JPEGImages' / f'{name}.jpg'))[..., ::-1], ids.pop('truth'), ids)


def _draw_similarities(axis: Axes, findings: Findings) -> None:
    """Draw a dot for each image and a bar at the median."""
    jitter = np.random.default_rng(0)
    meters = list(findings.stages.values())[-1]
    for i, (method, look) in enumerate(styles(findings.methods).items()):
        values = [image.cosine_similarity for image in meters[method].images]
        x = i + jitter.uniform(-0.18, 0.18, len(values))
        axis.plot(x, values, look['marker'], color=look['color'], markersize=3.5, alpha=0.6, markeredgewidth=0)
        median = float(np.median(values))
        axis.hlines(median, i - 0.3, i + 0.3, color='black', linewidth=1.5)
        axis.text(i + 0.33, median, f'{median:.2f}', va='center')
    axis.set_xticks(range(len(findings.methods)), findings.methods)
    axis.set_xlim(-0.5, len(findings.methods) - 0.3)
    axis.set_title('Features, before vs after')
    axis.set_ylabel('cosine similarity, per image (higher: less distortion)')
