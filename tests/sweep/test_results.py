"""Tables and curves of a sweep, from rows that are written down here."""

import csv
import io
import math

import cv2
import numpy as np
import pytest

from mmseg_daft.sweep.curves import draw_curves
from mmseg_daft.sweep.results import COLUMNS, method_results, to_csv, to_latex, to_markdown


def row(method, stage, backbone, head, seed, value, state='done'):
    content = dict.fromkeys(COLUMNS)
    content.update(name=f'{method}_{stage}_{backbone:g}_{head:g}_{seed}', method=method, stage=stage,
                   backbone_lr=backbone, head_lr=head, seed=seed, value=value, state=state, metric='mIoU')
    return content


FT = [70.0, 71.5, 72.7]
ROWS = [
    *(row('ft', 'step1', rate, rate, seed, value) for rate, value in ((0.1, 61.0), (0.01, 64.0), (0.001, 55.0))
      for seed in (0,)),
    row('ft', 'step1', 0.3, 0.3, 0, None, 'diverged'),
    *(row('ft', 'report', 0.01, 0.01, seed, value) for seed, value in enumerate(FT)),
    row('daft', 'report', 0.1, 1, 0, 75.5), row('daft', 'report', 0.1, 1, 1, None, 'running'),
    row('lp', 'report', 0, 1, 0, 65.25)]


def test_mean_and_deviation_are_numpy_s_and_absent_seeds_are_named():
    lp, ft, daft = method_results(ROWS)
    assert [r.method for r in (lp, ft, daft)] == ['lp', 'ft', 'daft']
    assert math.isclose(ft.mean, np.mean(FT)) and math.isclose(ft.deviation, np.std(FT, ddof=1))
    assert lp.deviation is None and daft.absent == {1: 'running'}
    table = to_markdown([lp, ft, daft], 'mIoU')
    assert '| FT | 71.40 ± 1.35 | 3 | 0.01 | 0.01 |' in table
    assert '| DAFT | 75.50 | 1 of 2 (seed 1 running) | 0.1 | 1 |' in table
    assert '| LP | 65.25 | 1 | 0 | 1 |' in table


def test_latex_marks_the_best_of_the_complete():
    table = to_latex(method_results(ROWS), 'mIoU')
    assert r'FT & \textbf{71.40 $\pm$ 1.35} & 3 & 0.01 & 0.01 \\' in table
    assert r'DAFT & 75.50 &' in table
    assert table.count(r'\begin') == table.count(r'\end') == 1


def test_csv_holds_every_run_and_nothing_where_there_is_no_value():
    read = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    assert len(read) == len(ROWS) and tuple(read[0]) == COLUMNS
    assert [r['value'] for r in read if r['state'] != 'done'] == ['', '']


@pytest.mark.parametrize('grey', [False, True])
def test_the_winner_s_star_stands_out_of_the_curves_also_in_grey(tmp_path, grey):
    """The star is the one orange thing; in grey it is the one medium shade with a black rim."""
    path = tmp_path / 'curves.png'
    draw_curves(ROWS, {('ft', 'step1'): (0.01, 0.01)}, 'mIoU', path)
    with_star = cv2.imread(str(path)).astype(int)
    draw_curves(ROWS, {}, 'mIoU', path)
    without = cv2.imread(str(path)).astype(int)
    difference = np.abs(with_star - without)
    if grey:
        difference = np.abs(with_star.mean(2) - without.mean(2))[..., None]
    assert with_star.shape[0] > 300 and (difference.max(2) > 60).sum() > 50
