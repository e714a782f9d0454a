"""Figures 6 to 9 of Ha, Jeong, Lee (AAAI 2024), for segmentation: the least and the most distorted images.

For each class, by the pixels of the class, or without ground truth over whole images: the image, its ground truth,
the predictions before and after fine-tuning, and where the features were distorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mmseg_daft.analysis.distortion_meter import ImageDistortion
from mmseg_daft.analysis.styles import new_figure

HEAT = 'inferno'  # its lightness rises evenly, so that it reads in grey
MIN_PIXELS = 4  # positions of a class that an image needs to stand for it: fewer are chance


class Choice(NamedTuple):
    """An image that a sheet shows.

    Attributes:
        image: Its number in the data set.
        class_: The class that it stands for, or ``None``.
        cosine: The mean cosine similarity at the pixels of the class, or of the pooled features.
    """

    image: int
    class_: int | None
    cosine: float


@dataclass(frozen=True)
class Scene:
    """One row of a sheet.

    Attributes:
        title: What stands beside the row.
        image: ``(H, W, 3)`` uint8 in RGB.
        truth: Class ids ``(H, W)``, or ``None`` without ground truth; ids outside the palette are drawn white.
        predictions: Class ids ``(H, W)`` by column title, the same titles in every row.
        heat: 1 - cosine similarity at the stage's positions ``(h, w)``, or ``None``.
        class_: The class whose pixels are outlined in the image, or ``None``.
    """

    title: str
    image: NDArray[np.uint8]
    truth: NDArray[np.integer] | None
    predictions: Mapping[str, NDArray[np.integer]]
    heat: NDArray[np.floating] | None = None
    class_: int | None = None


def choose(images: Sequence[ImageDistortion], classes: int, most: bool, without_classes: int = 4) -> list[Choice]:
    """Choose the least or the most distorted image of each class, or of all images where there are no classes.

    Args:
        images: Distortion of each image.
        classes: How many classes there are; 0 without ground truth.
        most: Whether the most distorted ones.
        without_classes: How many to choose where there are no classes.
    """
    pick = min if most else max
    chosen = []
    for class_ in range(classes):
        shown = [i for i in images if i.class_pixels.get(class_, 0) >= MIN_PIXELS]
        if shown:
            image = pick(shown, key=lambda i: (i.class_cosine[class_], -i.image))
            chosen.append(Choice(image.image, class_, image.class_cosine[class_]))
    if not classes:
        order = sorted(images, key=lambda i: (i.cosine_similarity, i.image), reverse=not most)
        chosen = [Choice(image.image, None, image.cosine_similarity) for image in order[:without_classes]]
    return chosen


def draw_sheet(
    scenes: Sequence[Scene], classes: Sequence[str], palette: Sequence[Sequence[int]], title: str,
    heat_range: tuple[float, float],
) -> Figure:
    """Draw a sheet.

    Args:
        scenes: The rows, at least one.
        classes: Names of the classes, for the legend.
        palette: RGB of each class, 0 to 255.
        title: One line above all.
        heat_range: Where the heat map's logarithmic scale begins and ends: the same for all sheets that are to be
            compared. What lies beyond is drawn like the ends.
    """
    ratio = scenes[0].image.shape[0] / scenes[0].image.shape[1]
    columns = 2 + len(scenes[0].predictions) + (scenes[0].truth is not None)
    width = 1.75
    scale = LogNorm(*heat_range)
    figure = new_figure(0.9 + width * columns, 1.15 + (width * ratio + 0.06) * len(scenes))
    figure.suptitle(title, fontsize=10.5, fontweight='bold')
    axes = figure.subplots(len(scenes), columns, squeeze=False)
    colours = np.asarray(palette, np.uint8).reshape(-1, 3)
    for row, scene in zip(axes, scenes, strict=True):
        draw_row(row[:-1], scene, colours, scene is scenes[0])
        row[-1].imshow(scene.image.mean(2), cmap='gray', interpolation='bilinear')
        extent = (-0.5, scene.image.shape[1] - 0.5, scene.image.shape[0] - 0.5, -0.5)
        row[-1].imshow(scene.heat.clip(*heat_range), cmap=HEAT, norm=scale, alpha=0.75, extent=extent,
                       interpolation='nearest')
        row[-1].set(xticks=[], yticks=[])
        row[0].set_ylabel(scene.title, fontsize=7.5)
    axes[0, -1].set_title('distortion')
    bar = figure.colorbar(ScalarMappable(scale, HEAT), ax=axes, location='right', shrink=0.5,
                          aspect=30, pad=0.01)
    bar.set_label('1 - cosine similarity', fontsize=8)
    if len(classes) == len(palette) and (scenes[0].truth is not None or scenes[0].predictions):
        figure.legend(
            handles=[Patch(facecolor=np.array(rgb) / 255, edgecolor='black', linewidth=0.5, label=name)
                     for name, rgb in zip(classes, palette, strict=True)],
            loc='outside lower center', ncols=min(len(classes), 2 + columns), fontsize=7.5)
    return figure


def draw_row(axes: Sequence[Axes], scene: Scene, palette: NDArray[np.uint8], titled: bool) -> None:
    """Draw image, ground truth and predictions into as many axes."""
    maps = {**({} if scene.truth is None else {'ground truth': scene.truth}), **scene.predictions}
    pictures = {'image': scene.image, **{name: colourised(ids, palette) for name, ids in maps.items()}}
    for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, interpolation='nearest')
        axis.set(xticks=[], yticks=[])
        if titled:
            axis.set_title(name)
    if scene.class_ is not None and scene.truth is not None:
        mine = scene.truth == scene.class_
        for colour, line in (('black', 1.6), ('white', 0.8)):
            axes[0].contour(mine, levels=[0.5], colors=colour, linewidths=line)


def colourised(ids: NDArray[np.integer], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return class ids ``(H, W)`` as colours ``(H, W, 3)``; ids outside the palette become white."""
    colours = np.concatenate([palette, np.full((1, 3), 255, np.uint8)])
    return colours[np.where((ids >= 0) & (ids < len(palette)), ids, len(palette))]
