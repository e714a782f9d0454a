"""The study's numbers and figures are made from what `evaluate` and `analyze` write."""

import csv

import pytest

from docs import draw_study


def write(path, rows):
    path.parent.mkdir(parents=True)
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path):
    """Two methods with two seeds; their numbers in the columns of the two commands, with rows that do not count."""
    for seed in (0, 1):
        evaluation, distortion = [], []
        for run, value in (('ft', 0.3), ('daft', 0.4)):
            base = dict(run=run, against='', set='test', corruption='', severity='')
            base['class'] = ''
            evaluation += [dict(base, measure='mIoU', value=value + seed / 100),
                           dict(base, measure='mIoU', set='dusk', value=value - 0.1),
                           dict(base, measure='mPC', corruption='all', value=value / 2),
                           dict(base, measure='mIoU', corruption='fog', severity='3', value=9),
                           dict(base, measure='mPC', corruption='weather', value=9),
                           dict(base, measure='mIoU', against='lp', value=9), dict(base, measure='mIoU', value=9)]
            evaluation[-1]['class'] = 'sky'
            distortion += [dict(level=level, measure='cosine_similarity', method=run, stage=stage, statistic='median',
                                value=value + stage / 10) for stage in (2, 4) for level in ('pixel', 'image')]
        write(tmp_path / 'day-200' / f'evaluate-{seed}' / 'numbers.csv', evaluation)
        write(tmp_path / 'day-200' / f'distortion-{seed}' / 'numbers.csv', distortion)
    return tmp_path


def test_a_row_is_a_run(folder):
    rows = draw_study.read(folder)
    assert [(row['method'], row['seed']) for row in rows] == [('ft', 0), ('ft', 1), ('daft', 0), ('daft', 1)]
    assert rows[3] == dict(target='day', iterations=200, method='daft', seed=1, day=41.0, dusk=30.0, mPC=20.0,
                           cosine_similarity=0.8)


def test_the_table_has_mean_and_deviation_over_the_seeds(folder):
    line = draw_study.table(draw_study.read(folder)).splitlines()[2]
    assert line == '| day | 200 | FT | 30.5 ± 0.7 | 20.0 ± 0.0 | 15.0 ± 0.0 | 0.70 ± 0.00 | 2 |'


def test_the_figures_hold_every_run(folder):
    rows = draw_study.read(folder)
    for figure, keys in ((draw_study.draw_distortion(rows), ('cosine_similarity', 'day')),
                         (draw_study.draw_unseen(rows), ('day', 'dusk'))):
        drawn = [point for line in figure.axes[0].lines for point in zip(*line.get_data(), strict=True)]
        assert {tuple(row[key] for key in keys) for row in rows} <= {*drawn}
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ['FT', 'DAFT']
