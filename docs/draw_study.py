"""Draw the figures of ``docs/study.md`` from the folders that its commands leave.

    python -m docs.draw_study work_dirs/study

reads ``TARGET-ITERATIONS/evaluate-SEED/numbers.csv`` and, where it is there, ``distortion-SEED/numbers.csv`` beside it;
writes ``docs/study.csv``, a row for each run, and two figures.
"""

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmseg_daft.analysis.figures import figure_style, save_figure, styles
from mmseg_daft.analysis.report import write_csv

FOLDER = Path(__file__).parent
COLUMNS = ('target', 'iterations', 'method', 'seed', 'day', 'dusk', 'mPC', 'cosine_similarity')
NAMES = {'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT', 'ft-conversion': 'FT + conversion',
         'lpft-conversion': 'LP-FT + conversion', 'integrated-lpft': 'integrated LP-FT', 'two-rates': 'two rates'}
"""Methods, by the folder that their config is in or the first word of its name."""
MEASURES = {('mIoU', 'test', ''): 'day', ('mIoU', 'dusk', ''): 'dusk', ('mPC', 'test', 'all'): 'mPC'}

Row = Mapping[str, Any]


def read(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each run of a study: mIoU and mPC in percent, the similarity of the last stage's features.

    The similarity is that of an image's pooled features to the start's: the median over the day's test images.
    """
    rows: dict[tuple[str, int, str, int], dict[str, Any]] = {}
    for path in sorted(folder.glob('*-*/evaluate-*/numbers.csv')):
        target, iterations = path.parts[-3].split('-')
        seed = int(path.parts[-2].split('-')[-1])
        for line in _lines(path):
            key = line['measure'], line['set'], line['corruption']
            if not line['against'] and not line['class'] and not line['severity'] and key in MEASURES:
                row = rows.setdefault((target, int(iterations), line['run'], seed), {})
                row[MEASURES[key]] = round(100 * float(line['value']), 2)
        distortion = path.parents[1] / f'distortion-{seed}' / 'numbers.csv'
        for line in _lines(distortion) if distortion.is_file() else ():
            if (line['level'], line['measure'], line['statistic']) == ('image', 'cosine_similarity', 'median'):
                row = rows[target, int(iterations), line['method'], seed]
                row['cosine_similarity'] = round(float(line['value']), 4)  # the last stage comes last
    order = sorted(rows, key=lambda key: (*key[:2], list(NAMES).index(key[2]), key[3]))
    return [dict(zip(COLUMNS[:4], key, strict=True), **{name: rows[key].get(name, '') for name in COLUMNS[4:]})
            for key in order]


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding='utf-8', newline='') as file:
        yield from csv.DictReader(file)


def table(rows: Sequence[Row]) -> str:
    """Return means and standard deviations over the seeds, in Markdown."""
    lines = ['| target | iterations | method | day | dusk | mPC | similarity | seeds |',
             '|---|--:|---|--:|--:|--:|--:|--:|']
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row['target'], row['iterations'], row['method']), []).append(row)
    for (target, iterations, method), mine in groups.items():
        cells = []
        for key, digits in (('day', 1), ('dusk', 1), ('mPC', 1), ('cosine_similarity', 2)):
            values = [row[key] for row in mine if row[key] != '']
            cells.append(f'{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}' if len(values) > 1 else '')
        lines.append(f'| {target} | {iterations} | {NAMES[method]} | {" | ".join(cells)} | {len(mine)} |')
    return '\n'.join(lines)


def scatter(axis: Axes, rows: Sequence[Row], x: str, y: str) -> None:
    """Draw a dot for each run and a larger one for each method's mean."""
    looks = styles(list(NAMES.values()))
    for method, name in NAMES.items():
        points = [(row[x], row[y]) for row in rows if row['method'] == method and '' not in (row[x], row[y])]
        if points:
            xs, ys = zip(*points, strict=True)
            look = dict(color=looks[name]['color'], marker=looks[name]['marker'], linestyle='')
            axis.plot(xs, ys, markersize=3, alpha=0.5, **look)
            axis.plot([fmean(xs)], [fmean(ys)], markersize=8, markeredgecolor='white', label=name, **look)
    axis.grid(color='0.9', linewidth=0.6)


def draw_distortion(rows: Sequence[Row]) -> Figure:
    """Draw mIoU, seen and unseen, against the similarity of the features to the start's."""
    figure = Figure((8.4, 3.4), layout='constrained')
    for axis, (key, title) in zip(figure.subplots(1, 2), (('day', 'day'), ('dusk', 'dusk (never seen)')), strict=True):
        scatter(axis, rows, 'cosine_similarity', key)
        axis.set(title=title, xlabel="cosine similarity of the features to the start's", ylabel='mIoU %')
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside right center', fontsize=8)
    return figure


def draw_unseen(rows: Sequence[Row]) -> Figure:
    """Draw what was not seen in training against what was."""
    figure = Figure((8.4, 3.4), layout='constrained')
    for axis, (key, label) in zip(figure.subplots(1, 2), (
            ('dusk', 'mIoU % at dusk'), ('mPC', 'mIoU % under 15 corruptions')), strict=True):
        scatter(axis, rows, 'day', key)
        axis.set(xlabel='mIoU % by day, the target', ylabel=f'{label} (never seen)')
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside right center', fontsize=8)
    return figure


def main() -> None:
    """Read, write and draw."""
    rows = read(Path(sys.argv[1]))
    write_csv(FOLDER / 'study.csv', COLUMNS, rows)
    print(table(rows))
    day = [row for row in rows if (row['target'], row['iterations']) == ('day', 200)]
    with figure_style():
        save_figure(draw_distortion(day), FOLDER, 'study_distortion', ['png'])
        save_figure(draw_unseen(day), FOLDER, 'study_unseen', ['png'])


if __name__ == '__main__':
    main()
