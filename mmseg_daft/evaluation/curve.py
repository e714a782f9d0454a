"""The curve of an interpolation: mIoU on the own test set and on further ones, from the start to the end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from mmseg_daft.analysis.figures import styles
from mmseg_daft.evaluation.cells import OWN
from mmseg_daft.evaluation.confusion import estimate
from mmseg_daft.evaluation.results import Results


def curve_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield mIoU with its interval for each α, by which the runs are named, and set."""
    for alpha, compared in results.compared.items():
        for (_, set_, _), values in compared.items():
            value, low, high = estimate(values)
            yield dict(alpha=float(alpha), set=set_, images=len(results.images[set_]), miou=value, interval_low=low,
                       interval_high=high)


def draw_curve(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw mIoU over α for each set and, where there are further sets, each of them over the own one: ID and OOD."""
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(row['set'], []).append(row)
    further = [set_ for set_ in by_set if set_ != OWN]
    figure = Figure((7.2 if further else 4.2, 3.4), layout='constrained')
    over_alpha, *over_own = figure.subplots(1, 1 + bool(further), squeeze=False)[0]
    own = [100 * row['miou'] for row in by_set[OWN]]
    for set_, look in styles(list(by_set)).items():
        alphas, values = [row['alpha'] for row in by_set[set_]], [100 * row['miou'] for row in by_set[set_]]
        over_alpha.fill_between(alphas, *([100 * row[f'interval_{side}'] for row in by_set[set_]]
                                          for side in ('low', 'high')), color=look['color'], alpha=0.15, linewidth=0)
        over_alpha.plot(alphas, values, label=f' {set_}', markersize=4, **look)
        for axis in over_own if set_ != OWN else ():
            axis.plot(own, values, markersize=4, **look)
            for place in (0, -1):
                axis.annotate(f'α = {alphas[place]:g}', (own[place], values[place]), (4, 4),
                              textcoords='offset points', fontsize=7)
    over_alpha.set(xlabel='α, from the start to the end', ylabel='mIoU in %')
    for axis in over_own:
        axis.set(xlabel=f'mIoU in % on {OWN}', ylabel='mIoU in % on the further sets')
    figure.legend(loc='outside upper center', ncols=min(len(by_set), 4))
    return figure
