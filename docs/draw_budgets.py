"""Draw ``docs/demo_budgets.png``: what FT and DAFT reach with trainings of several lengths, from demos that were run.

    for N in 100 200 400 600; do python -m demo --iterations $N --folder work_dirs/demo-$N; done
    python -m docs.draw_budgets work_dirs/demo-*

Writes the numbers of all runs beside it, to ``docs/demo.csv``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from demo import NAMES, SETS
from mmseg_daft.analysis.figures import figure_style, save_figure, styles
from mmseg_daft.analysis.report import write_csv

FOLDER = Path(__file__).parent
COLUMNS = ('method', 'iterations', 'seed', *SETS, 'cosine_similarity')


def read(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a row for each run of some demos, shortest trainings first.

    Raises:
        ValueError: A demo was a quick one, whose numbers mean nothing.
    """
    rows = []
    for folder in folders:
        results = json.loads((folder / 'results.json').read_text(encoding='utf-8'))
        if results['quick']:
            raise ValueError(f'{folder} is of --quick, whose numbers mean nothing.')
        rows += [{key: dict(row, iterations=results['iterations'])[key] for key in COLUMNS} for row in results['rows']]
    return sorted(rows, key=lambda row: (list(NAMES).index(row['method']), row['iterations'], row['seed']))


def draw(rows: Sequence[Mapping[str, Any]], methods: Sequence[str] = ('ft', 'daft')) -> Figure:
    """Draw mIoU against the length of the training: a panel for each set, a dot for each run, a line through means."""
    figure = Figure((8.4, 2.9), layout='constrained')
    looks = styles([NAMES[method] for method in methods])
    for axis, (key, title) in zip(figure.subplots(1, len(SETS), sharey=True), SETS.items(), strict=True):
        for method in methods:
            mine = [row for row in rows if row['method'] == method]
            lengths = sorted({row['iterations'] for row in mine})
            look = looks[NAMES[method]]
            axis.plot(lengths, [fmean(row[key] for row in mine if row['iterations'] == n) for n in lengths],
                      label=NAMES[method], markersize=0, linewidth=1.6, **dict(look, marker=''))
            axis.plot([row['iterations'] for row in mine], [row[key] for row in mine], look['marker'],
                      color=look['color'], markersize=4, markeredgecolor='white', markeredgewidth=0.4)
        axis.set(title=title if key == 'day' else f'{title} (never seen)', xlabel='iterations of the training',
                 xticks=sorted({row['iterations'] for row in rows}), ylim=(0, 100))
        axis.grid(axis='y', color='0.9', linewidth=0.6)
    figure.axes[0].set_ylabel('mIoU %')
    figure.axes[0].legend(loc='lower right')
    return figure


def main() -> None:
    """Read, draw and write."""
    rows = read([Path(word) for word in sys.argv[1:]])
    write_csv(FOLDER / 'demo.csv', COLUMNS, [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in rows])
    with figure_style():
        save_figure(draw(rows), FOLDER, 'demo_budgets', ['png'])


if __name__ == '__main__':
    main()
