"""The demo's picture: what each model predicts, how it got there, and what became of the features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demo import NAMES, SETS
from demo.runs import Demo, Run
from mmseg_daft.analysis.figures import draw_legend, draw_row, figure_style, save_figure, styles
from mmseg_daft.analysis.findings import Findings, Scene

SHOWN = ('day/val_0000', 'day/val_0001', 'night/val_0000', 'night/val_0001', 'corrupted/val_0002_noise')


def draw_picture(demo: Demo, findings: Findings, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the picture and write it as PNG.

    Above are images of each set as the models of the first seed see them; the columns carry the mean mIoU over seeds.
    Below are the learning curves, a line for each seed, and the similarity of images' features to the pre-trained ones.
    """
    with figure_style():
        figure = Figure((2.1 * (2 + len(demo.methods)) + 1, 1.6 * len(SHOWN) + 4.6), layout='constrained')
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.6 * len(SHOWN) + 1.1, 3.5), hspace=0.02)
        colors = np.asarray(findings.palette, np.uint8)
        axes = top.subplots(len(SHOWN), 2 + len(demo.methods), squeeze=False)
        for row, place in zip(axes, SHOWN, strict=True):
            scene = _scene(demo, place)
            draw_row(row, scene, colors, place == SHOWN[0])
            row[0].set_ylabel(SETS[place.split('/')[0]].replace(' ', '\n'), fontsize=9)
        for axis, method in zip(axes[0, 2:], demo.methods, strict=True):
            means = [np.mean([row[key] for row in rows if row['method'] == method]) for key in SETS]
            axis.set_title('{}\nmIoU {:.1f} / {:.1f} / {:.1f}'.format(NAMES[method], *means))
        axes[0, 1].set_title('ground truth\ndaylight / night / corrupted')
        draw_legend(top, findings.classes, colors, len(findings.classes))
        panels = bottom.subplots(1, 3, width_ratios=(3, 3, 2))
        for axis, key, title in zip(panels, ('day', 'night'), ('daylight', 'night, never trained on'), strict=False):
            _draw_curves(axis, demo, key)
            axis.set(title=f'mIoU on {title}', xlabel='iteration', ylim=(0, None))
        panels[0].legend()
        _draw_similarities(panels[2], demo, findings)
        save_figure(figure, path.parent, path.stem, ['png'])


def _scene(demo: Demo, place: str) -> Scene:
    """Read an image with its ground truth and the predictions of the first seed's models."""
    (folder, name), data = place.split('/'), demo.folder / 'data'
    maps = {'truth': data / folder / 'SegmentationClass' / f'{name}.png'}
    for method in demo.methods:
        maps[NAMES[method]] = demo.work_dir(Run(method, demo.seeds[0])) / 'test' / folder / f'{name}.png'
    ids = {title: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for title, path in maps.items()}
    return Scene(name, cv2.imread(str(data / folder / 'JPEGImages' / f'{name}.jpg'))[..., ::-1], ids.pop('truth'), ids)


def _draw_curves(axis: Axes, demo: Demo, key: str) -> None:
    """Draw a line for each run, in its method's style."""
    looks = styles([NAMES[method] for method in demo.methods])
    names = {**NAMES, 'lpft': 'LP-FT, after LP'}
    for run in demo.runs():
        curve = demo.curve(run)[key]
        axis.plot(list(curve), list(curve.values()), markersize=3, linewidth=1.2, **looks[NAMES[run.method]],
                  label=names[run.method] if run.seed == demo.seeds[0] else None)


def _draw_similarities(axis: Axes, demo: Demo, findings: Findings) -> None:
    """Draw a dot for each image of each run, and a bar at the method's median."""
    jitter = np.random.default_rng(0)
    meters = list(findings.stages.values())[-1]
    for i, (name, look) in enumerate(styles([NAMES[method] for method in demo.methods]).items()):
        values = [image.cosine_similarity for run in demo.runs() if NAMES[run.method] == name
                  for image in meters[run.name].images]
        axis.plot(i + jitter.uniform(-0.18, 0.18, len(values)), values, look['marker'], color=look['color'],
                  markersize=3.5, alpha=0.5, markeredgewidth=0)
        median = float(np.median(values))
        axis.hlines(median, i - 0.3, i + 0.3, color='black', linewidth=1.5)
        axis.text(i + 0.33, median, f'{median:.2f}', va='center')
    axis.set_xticks(range(len(demo.methods)), [NAMES[method] for method in demo.methods])
    axis.set_xlim(-0.5, len(demo.methods) - 0.3)
    axis.set_title('features: similarity\nto the pre-trained ones')
    axis.set_ylabel('cosine similarity, per image')
