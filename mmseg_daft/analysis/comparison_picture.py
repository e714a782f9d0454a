"""One picture that compares fine-tuning methods: what they predict, and what they did to the model.

Above: images with ground truth and predictions. Below: the relative change of the batch-norm
statistics per layer (Figure 2 of Ha, Jeong, Lee, AAAI 2024) and the feature distortion (its Figure 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

# Okabe and Ito's colours keep apart for the colour-blind; markers and dashes tell the same in grey.
STYLES = (
    dict(color='#D55E00', marker='o', linestyle='--'),
    dict(color='#0072B2', marker='s', linestyle='-'),
    dict(color='#009E73', marker='^', linestyle=':'))
_STATISTICS = {'running_mean': 'BN mean', 'running_var': 'BN variance'}


@dataclass(frozen=True)
class Scene:
    """One row of the picture.

    Attributes:
        image: ``(H, W, 3)`` uint8 in RGB.
        truth: Class ids, ``(H, W)``; ids outside the palette are drawn white.
        predictions: Class ids ``(H, W)`` by column title, the same titles in every row.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.integer]
    predictions: Mapping[str, NDArray[np.integer]]


@dataclass(frozen=True)
class MethodChange:
    """What one method did to the pre-trained model.

    Attributes:
        statistics: Relative change by layer, for each of ``'running_mean'`` and ``'running_var'``.
        cosine_similarity: One number per image, before against after fine-tuning.
    """

    statistics: Mapping[str, Mapping[str, float]]
    cosine_similarity: Sequence[float] = field(default_factory=tuple)


def draw_comparison(
    scenes: Sequence[Scene],
    changes: Mapping[str, MethodChange],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    title: str,
    path: Path,
) -> None:
    """Draw the picture and write it as PNG.

    Args:
        scenes: The rows, at least one.
        changes: What each method did, by name, at most three.
        classes: Names of the classes, for the legend.
        palette: RGB of each class, 0 to 255.
        title: One line above all.
        path: Where to write it; the folder must exist.
    """
    with matplotlib.rc_context({'font.size': 9, 'axes.titlesize': 10, 'figure.dpi': 130}):
        columns = 2 + len(scenes[0].predictions)
        figure = Figure(figsize=(10, 1.75 * len(scenes) + 5.2), layout='constrained')
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=12, fontweight='bold')
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.75 * len(scenes) + 0.7, 4.0), hspace=0.02)
        _draw_scenes(top.subplots(len(scenes), columns, squeeze=False), scenes, np.asarray(palette, np.uint8))
        top.legend(
            handles=[Patch(facecolor=np.array(rgb) / 255, edgecolor='black', linewidth=0.5, label=name)
                     for name, rgb in zip(classes, palette, strict=True)],
            loc='outside lower center', ncols=len(classes), frameon=False)
        bottom.suptitle('What fine-tuning did to the backbone', fontsize=12, fontweight='bold')
        axes = bottom.subplots(1, 3, width_ratios=(3, 3, 2))
        for axis, (statistic, name) in zip(axes[:2], _STATISTICS.items(), strict=True):
            _draw_changes(axis, {m: c.statistics[statistic] for m, c in changes.items()}, name)
        _draw_similarities(axes[2], {method: change.cosine_similarity for method, change in changes.items()})
        figure.savefig(path)


def _draw_scenes(axes: NDArray[np.object_], scenes: Sequence[Scene], palette: NDArray[np.uint8]) -> None:
    for row, scene in zip(axes, scenes, strict=True):
        maps = {'ground truth': scene.truth, **scene.predictions}
        pictures = {'image': scene.image, **{name: colourised(ids, palette) for name, ids in maps.items()}}
        for axis, (name, picture) in zip(row, pictures.items(), strict=True):
            axis.imshow(picture, interpolation='nearest')
            axis.set(xticks=[], yticks=[])
            if scene is scenes[0]:
                axis.set_title(name)


def colourised(ids: NDArray[np.integer], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return class ids ``(H, W)`` as colours ``(H, W, 3)``; ids outside the palette become white."""
    colours = np.concatenate([palette, np.full((1, 3), 255, np.uint8)])
    return colours[np.where((ids >= 0) & (ids < len(palette)), ids, len(palette))]


def _draw_changes(axis: Axes, changes: Mapping[str, Mapping[str, float]], name: str) -> None:
    """One line per method over the layers in their order, on a log scale as in the paper."""
    layers: Sequence[str] = ()
    for i, (method, change) in enumerate(changes.items()):
        layers = list(change)
        # A tensor that did not change has no place on a log scale.
        values = [value or np.nan for value in change.values()]
        axis.plot(range(len(layers)), values, label=method, markersize=4, linewidth=1.2, **STYLES[i])
    stages = [_stage(layer) for layer in layers]
    for i in range(1, len(stages)):
        if stages[i] != stages[i - 1]:
            axis.axvline(i - 0.5, color='0.8', linewidth=0.8, zorder=0)
    middles = {stage: np.mean([i for i, s in enumerate(stages) if s == stage]) for stage in stages}
    axis.set_xticks(list(middles.values()), list(middles))
    axis.tick_params(axis='x', length=0)
    axis.set_yscale('log')
    axis.set_title(f'Relative change of {name}\n(lower: less moved in fine-tuning)')
    axis.set_xlabel('BN layers of the backbone, by stage')
    axis.legend(frameon=False)


def _stage(layer: str) -> str:
    """Return the number of a layer's stage, or 'stem' for what comes before the stages."""
    part = layer.removeprefix('backbone.').split('.')[0]
    return part[5:] if part.startswith('layer') and part[5:].isdigit() else 'stem'


def _draw_similarities(axis: Axes, similarities: Mapping[str, Sequence[float]]) -> None:
    """A dot per image and a bar at the mean."""
    jitter = np.random.default_rng(0)
    for i, values in enumerate(similarities.values()):
        style = STYLES[i]
        x = i + jitter.uniform(-0.18, 0.18, len(values))
        axis.plot(x, values, style['marker'], color=style['color'], markersize=3.5, alpha=0.6, markeredgewidth=0)
        mean = float(np.mean(values))
        axis.hlines(mean, i - 0.3, i + 0.3, color='black', linewidth=1.5)
        axis.text(i + 0.33, mean, f'{mean:.2f}', va='center')
    axis.set_xticks(range(len(similarities)), list(similarities))
    axis.set_xlim(-0.5, len(similarities) - 0.3)
    axis.set_title('Features, before vs after\n(higher: less distortion)')
    axis.set_ylabel('cosine similarity, per image')
