"""The figures of an evaluation, in the style of the analysis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmseg_daft.analysis.figures import draw_legend, draw_row, styles
from mmseg_daft.analysis.findings import Scene
from mmseg_daft.evaluation.confusion import estimate
from mmseg_daft.evaluation.corruptions import group_of
from mmseg_daft.evaluation.results import ERROR, Part, Results

_SIDE_BY_SIDE = 3
_MOST_CLASSES = 8


def report_figures(results: Results, scenes: Sequence[Scene], palette: Sequence[Sequence[int]]) -> dict[str, Figure]:
    """Draw the report's figures, by the name of their files."""
    drawn = {'sets': draw_numbers(results)}
    if len(results.runs) > 1:
        drawn['differences'] = draw_differences(results)
    if results.corruptions:
        drawn['corruptions'] = draw_corruptions(results)
    drawn['classes'] = draw_classes(results)
    if scenes:
        drawn['sheet_images'] = draw_images(scenes, results.classes, palette)
    return drawn


def draw_numbers(results: Results) -> Figure:
    """Draw bars of each set's mIoU or accuracy, and of mPC, with intervals."""
    numbers = {name: by_run for name, by_run in results.headline.items() if name not in ('rPC', ERROR)}
    figure = Figure((max(7.2, 1.6 + len(numbers) * (0.35 + 0.3 * len(results.runs))), 3.2), layout='constrained')
    axis = figure.subplots()
    width = 0.8 / len(results.runs)
    for i, (run, look) in enumerate(styles(results.runs).items()):
        places = np.arange(len(numbers)) + (i - (len(results.runs) - 1) / 2) * width
        values = [by_run[run] for by_run in numbers.values()]
        axis.bar(places, [100 * value.value for value in values], 0.9 * width, color=look['color'], label=f' {run}')
        for place, value in zip(places, values, strict=True):
            axis.plot([place, place], [100 * value.low, 100 * value.high], color='black', linewidth=1.2)
            axis.text(place, 100 * np.nanmax([value.value, value.high, 0]) + 0.6, f'{100 * value.value:.1f}',
                      ha='center', va='bottom', fontsize=7)
    axis.set_xticks(range(len(numbers)), list(numbers), rotation=25 if len(numbers) > 5 else 0,
                    ha='right' if len(numbers) > 5 else 'center')
    axis.set(ylabel=f'{results.measure.name} in %', ylim=(0, None))
    figure.legend(loc='outside upper center', ncols=min(len(results.runs), 4))
    return figure


def draw_differences(results: Results) -> Figure:
    """Draw by how much the runs are better than the reference, with paired intervals: one that holds zero is level."""
    pairs = {run: parts for (run, against), parts in results.differences.items() if against == results.reference}
    names = [part for part in next(iter(pairs.values())) if part[0] != 'rPC']
    figure = Figure((7.2, 1.1 + len(names) * (0.1 + 0.17 * len(pairs))), layout='constrained')
    axis = figure.subplots()
    axis.axvline(0, color='black', linewidth=1)
    for i, (run, look) in enumerate((run, look) for run, look in styles(results.runs).items() if run in pairs):
        for row, part in enumerate(names):
            value = estimate(pairs[run][part])
            place = row + 0.8 * ((i + 0.5) / len(pairs) - 0.5)
            axis.plot([100 * value.low, 100 * value.high], [place, place], color=look['color'], linewidth=1.6)
            level = value.verdict() in ('level', '')
            axis.plot(100 * value.value, place, marker=look['marker'], color=look['color'], linestyle='', markersize=5,
                      markerfacecolor='white' if level else look['color'], label=f' {run}' if row == 0 else None)
    axis.set_yticks(range(len(names)), [_part_name(part, results) for part in names])
    axis.grid(axis='x', color='0.9', linewidth=0.6)
    axis.set(ylim=(len(names) - 0.4, -0.6),
             xlabel=f'{results.measure.name} in points above that of {results.reference}; hollow: level')
    figure.legend(loc='outside upper center', ncols=min(len(pairs), 4))
    return figure


def _part_name(part: Part, results: Results) -> str:
    if part[0] == results.measure.name:
        return part[1]
    return 'all corruptions (mPC)' if part[2] == 'all' else part[2].replace('_', ' ')


def draw_corruptions(results: Results) -> Figure:
    """Draw a heat map for each run: its mIoU or accuracy by corruption and severity, on one scale."""
    names, severities = results.corruptions, results.severities
    grids = {run: 100 * results.grid(run)[..., 0] for run in results.runs}
    low, high = (limit(list(grids.values())) for limit in (np.nanmin, np.nanmax))
    columns = min(len(grids), _SIDE_BY_SIDE)
    rows = -(-len(grids) // columns)
    figure = Figure((1.7 + columns * (0.7 + 0.42 * len(severities)), 0.5 + rows * (0.7 + 0.24 * len(names))),
                    layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis, (run, grid) in itertools.zip_longest(axes.flat, grids.items(), fillvalue=(None, None)):
        if run is None:
            axis.set_axis_off()
            continue
        shown = axis.imshow(grid, cmap='viridis', vmin=low, vmax=max(high, low + 0.1), aspect='auto')
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                dark = value < (low + high) / 2
                axis.text(column, row, f'{value:.0f}', ha='center', va='center', fontsize=7,
                          color='white' if dark else 'black')
        for row in range(1, len(names)):
            if group_of(names[row]) != group_of(names[row - 1]):
                axis.axhline(row - 0.5, color='white', linewidth=2)
        axis.set(title=run, xticks=range(len(severities)), xticklabels=severities, yticks=range(len(names)),
                 yticklabels=[name.replace('_', ' ') for name in names])
        axis.tick_params(length=0)
    figure.supxlabel('severity', fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.7, aspect=30, label=f'{results.measure.name} in %')
    return figure


def draw_classes(results: Results) -> Figure:
    """Draw the classes that are worst on each set, on average over the runs, with intervals."""
    rows = results.class_table()
    sets = list(dict.fromkeys(row['set'] for row in rows))
    chosen = {}
    for set_ in sets:
        by_class: dict[str, list[float]] = {}
        for row in rows:
            if row['set'] == set_:
                by_class.setdefault(row['class'], []).append(row['value'].value)
        chosen[set_] = sorted(by_class, key=lambda name: np.mean(by_class[name]))[:_MOST_CLASSES]
    heights = [len(classes) for classes in chosen.values()]
    step = 0.14 + 0.11 * len(results.runs)
    figure = Figure((7.2, 0.9 + 0.45 * len(sets) + step * sum(heights)), layout='constrained')
    axes = figure.subplots(len(sets), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axis, (set_, classes) in zip(axes, chosen.items(), strict=True):
        for i, (run, look) in enumerate(styles(results.runs).items()):
            mine = [row for row in rows if (row['set'], row['run']) == (set_, run) and row['class'] in classes]
            y = np.array([classes.index(row['class']) for row in mine]) + 0.7 * ((i + 0.5) / len(results.runs) - 0.5)
            iou = 100 * np.array([row['value'] for row in mine]).reshape(-1, 3)
            axis.hlines(y, iou[:, 1], iou[:, 2], color=look['color'], linewidth=1.4)
            axis.plot(iou[:, 0], y, marker=look['marker'], color=look['color'], linestyle='', markersize=4.5,
                      label=f' {run}')
        axis.set(yticks=range(len(classes)), yticklabels=classes, ylim=(len(classes) - 0.4, -0.6), title=set_)
        axis.grid(axis='x', color='0.9', linewidth=0.6)
        axis.tick_params(axis='y', length=0)
    axes[-1].set(xlabel=f'{results.measure.of_class.replace("_", " ")} in %', xlim=(-1, 101))
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside upper center', ncols=min(len(results.runs), 4))
    return figure


def draw_images(scenes: Sequence[Scene], classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Figure:
    """Draw a sheet of images: each with its ground truth and what the runs tell."""
    columns = 2 + len(scenes[0].predictions)
    heights = [scene.image.shape[0] / scene.image.shape[1] for scene in scenes]
    figure = Figure((0.9 + 1.9 * columns, 0.8 + sum(1.9 * height + 0.06 for height in heights)), layout='constrained')
    axes = figure.subplots(len(scenes), columns, squeeze=False, height_ratios=heights)
    colors = np.asarray(palette, np.uint8).reshape(-1, 3)
    for row, scene in zip(axes, scenes, strict=True):
        draw_row(row, scene, colors, scene is scenes[0])
    if len(classes) == len(colors):
        draw_legend(figure, classes, colors, min(len(classes), 2 + columns), fontsize=7.5)
    return figure
