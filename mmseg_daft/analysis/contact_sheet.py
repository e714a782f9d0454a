"""Figures 6 to 9 of Ha, Jeong, Lee (AAAI 2024), for segmentation: the least and the most distorted images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mmseg_daft.analysis.figures import new_figure
from mmseg_daft.analysis.findings import Scene

HEAT = 'inferno'  # its lightness rises evenly, so that it reads in gray


def draw_sheet(
    scenes: Sequence[Scene], classes: Sequence[str], palette: Sequence[Sequence[int]], title: str,
    heat_range: tuple[float, float],
) -> Figure:
    """Draw a sheet: image, ground truth, predictions before and after, and where the features were distorted.

    Args:
        scenes: The rows, at least one.
        classes: Names of the classes, for the legend.
        palette: RGB of each class, 0 to 255.
        title: One line above all.
        heat_range: Where the heat map's logarithmic scale begins and ends: the same for all sheets that are to be
            compared. What lies beyond is drawn like the ends.
    """
    height, width = scenes[0].image.shape[:2]
    columns = 2 + len(scenes[0].predictions) + (scenes[0].truth is not None)
    scale = LogNorm(*heat_range)
    figure = new_figure(0.9 + 1.75 * columns, 1.15 + (1.75 * height / width + 0.06) * len(scenes))
    figure.suptitle(title, fontsize=10.5, fontweight='bold')
    axes = figure.subplots(len(scenes), columns, squeeze=False)
    colors = np.asarray(palette, np.uint8).reshape(-1, 3)
    for row, scene in zip(axes, scenes, strict=True):
        draw_row(row[:-1], scene, colors, scene is scenes[0])
        row[-1].imshow(scene.image.mean(2), cmap='gray', interpolation='bilinear')
        extent = (-0.5, scene.image.shape[1] - 0.5, scene.image.shape[0] - 0.5, -0.5)
        row[-1].imshow(scene.heat.clip(*heat_range), cmap=HEAT, norm=scale, alpha=0.75, extent=extent,
                       interpolation='nearest')
        row[-1].set(xticks=[], yticks=[])
        row[0].set_ylabel(scene.title, fontsize=7.5)
    axes[0, -1].set_title('distortion')
    bar = figure.colorbar(ScalarMappable(scale, HEAT), ax=axes, location='right', shrink=0.5, aspect=30, pad=0.01)
    bar.set_label('1 - cosine similarity', fontsize=8)
    if len(classes) == len(colors) and (scenes[0].truth is not None or scenes[0].predictions):
        draw_legend(figure, classes, colors, min(len(classes), 2 + columns), fontsize=7.5)
    return figure


def draw_row(axes: Sequence[Axes], scene: Scene, palette: NDArray[np.uint8], titled: bool) -> None:
    """Draw image, ground truth and predictions into as many axes; ids outside the palette become white."""
    colors = np.concatenate([palette, np.full((1, 3), 255, np.uint8)])
    pictures = {'image': scene.image}
    for name, ids in {'ground truth': scene.truth, **scene.predictions}.items():
        if ids is not None:
            pictures[name] = colors[np.where((ids >= 0) & (ids < len(palette)), ids, len(palette))]
    for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, interpolation='nearest')
        axis.set(xticks=[], yticks=[])
        if titled:
            axis.set_title(name)
    if scene.class_ is not None and scene.truth is not None:
        for color, line in (('black', 1.6), ('white', 0.8)):
            axes[0].contour(scene.truth == scene.class_, levels=[0.5], colors=color, linewidths=line)


def draw_legend(
    figure: Figure | SubFigure, classes: Sequence[str], colors: NDArray[np.uint8], columns: int, **options: float,
) -> None:
    """Name the classes below a figure, in so many columns."""
    handles = [Patch(facecolor=rgb / 255, edgecolor='black', linewidth=0.5, label=name)
               for name, rgb in zip(classes, colors, strict=True)]
    figure.legend(handles=handles, loc='outside lower center', ncols=columns, **options)
