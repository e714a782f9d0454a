"""Distortion by stage (linear CKA) and by class of the ground truth."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from mmseg_daft.analysis.findings import Findings
from mmseg_daft.analysis.styles import new_figure, styles


def draw_cka(findings: Findings) -> Figure:
    """Draw linear CKA between the features before and after, per stage; beside it the debiased variant."""
    figure = new_figure(7.2, 2.8)
    axes = figure.subplots(1, 2, sharey=True)
    stages = list(findings.stages)
    for axis, name in zip(axes, ('cka', 'debiased_cka'), strict=True):
        for method, look in styles(findings.methods).items():
            values = [getattr(findings.stages[stage], name)(method) for stage in stages]
            axis.plot(range(len(stages)), values, label=method, markersize=5, linewidth=1.3, **look)
        axis.set_xticks(range(len(stages)), stages)
        axis.set_xlim(-0.3, len(stages) - 0.7)
        axis.set_xlabel('stage')
    images = len(next(iter(findings.stages.values())).methods[findings.methods[0]].images)
    axes[0].set(title=f'Linear CKA, before vs after ({images} images)', ylabel='CKA (1: the same up to rotation)')
    axes[1].set_title('debiased (for few images)')
    axes[0].legend()
    return figure


def draw_classes(findings: Findings, stage: str) -> Figure:
    """Draw the cosine similarity at the pixels of each class: median and quartiles, one mark a method."""
    rows = [row for row in findings.class_summary() if row['stage'] == stage]
    classes = list(dict.fromkeys(row['class'] for row in rows))
    looks = styles(findings.methods)
    figure = new_figure(7.2, 0.9 + (0.16 * len(looks) + 0.16) * max(1, len(classes)))
    axis = figure.subplots()
    for i, (method, look) in enumerate(looks.items()):
        mine = {row['class']: row for row in rows if row['method'] == method}
        y = np.array([classes.index(class_) for class_ in mine]) + 0.18 * (i - (len(looks) - 1) / 2)
        quartiles = np.array([row['quartiles'] for row in mine.values()]).reshape(-1, 2)
        axis.hlines(y, quartiles[:, 0], quartiles[:, 1], color=look['color'], linewidth=1.6)
        axis.plot([row['pixel_cosine'] for row in mine.values()], y, marker=look['marker'], linestyle='', markersize=5,
                  color=look['color'], label=method, markeredgecolor='white', markeredgewidth=0.5)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_ylim(len(classes) - 0.5, -0.5)
    axis.tick_params(axis='y', length=0)
    axis.grid(axis='x', color='0.9', linewidth=0.6)
    axis.set_xlabel(f'cosine similarity at the pixels of the class, stage {stage}: median and quartiles')
    figure.legend(loc='outside upper center', ncols=len(looks))
    return figure
