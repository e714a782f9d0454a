"""Tables and curves of a sweep, from rows that are written down here."""

import csv
import io
import math
import re
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rich.console import Console

from mmseg_daft.sweep.curves import draw_curves
from mmseg_daft.sweep.folder import SweepFolder
from mmseg_daft.sweep.protocol import Decision, Run, Seen, Sweep
from mmseg_daft.sweep.results import (
    method_results,
    read_evaluation,
    retrain_command,
    retrain_script,
    row_of,
    screen,
    to_csv,
    to_latex,
    to_markdown,
)

FT = [70.0, 71.5, 72.7]
TABLE = [
    *(('ft', 'step1', rate, rate, 0, value) for rate, value in ((0.1, 61.0), (0.01, 64.0), (0.001, 55.0))),
    ('ft', 'step1', 0.3, 0.3, 0, 'diverged'),
    *(('ft', 'report', 0.01, 0.01, seed, value) for seed, value in enumerate(FT)),
    ('daft', 'report', 0.1, 1, 0, 75.5), ('daft', 'report', 0.1, 1, 1, 'running'),
    ('lp', 'report', 0, 1, 0, 65.25)]
RUNS = [Run(*row[:5]) for row in TABLE]
DECISION = Decision({
    run.name: Seen(None if isinstance(row[5], str) else row[5], row[5] == 'diverged', 0, *[row[5] == 'running'] * 2)
    for run, row in zip(RUNS, TABLE)}, RUNS)


def test_mean_and_deviation_are_numpy_s_and_absent_seeds_are_named():
    lp, ft, daft = method_results(DECISION)
    assert [r.method for r in (lp, ft, daft)] == ['lp', 'ft', 'daft']
    assert math.isclose(ft.mean, np.mean(FT)) and math.isclose(ft.deviation, np.std(FT, ddof=1))
    assert lp.deviation is None and daft.absent == {1: 'running'}
    table = to_markdown([lp, ft, daft], 'mIoU')
    assert '| FT | 71.40 ± 1.35 | 3 | 0.01 | 0.01 |' in table
    assert '| DAFT | 75.50 | 1 of 2 (seed 1 running) | 0.1 | 1 |' in table
    assert '| LP | 65.25 | 1 | 0 | 1 |' in table


def test_latex_marks_the_best_of_the_complete():
    table = to_latex(method_results(DECISION), 'mIoU')
    assert r'FT & \textbf{71.40 $\pm$ 1.35} & 3 & 0.01 & 0.01 \\' in table
    assert r'DAFT & 75.50 &' in table
    assert table.count(r'\begin') == table.count(r'\end') == 1


@pytest.mark.parametrize('metric', ['$\\x$/mIoU', '[red]a[/b]/mIoU', '_a_b/m|IoU', 'a$b/{mIoU}%&#'])
def test_a_metric_of_any_name_is_shown_as_it_is(metric, tmp_path):
    decision = replace(DECISION, winners={('ft', 'step1'): RUNS[1]})
    draw_curves(decision, metric, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').stat().st_size > 10000
    table = to_markdown(method_results(DECISION), metric)
    assert [line.replace(r'\|', '').count('|') for line in table.splitlines()] == [6] * 5
    head = to_latex(method_results(DECISION), metric).splitlines()[2]
    assert not re.search(r'(?<!\\)[_$%&#{}]', head.partition('Seeds')[0].replace(' & ', ''))
    console = Console(file=io.StringIO(), width=200)
    folder = SweepFolder(tmp_path, Sweep({}, metric=metric), {}, 0.1, '', 0)
    console.print(screen(folder, DECISION, 1))
    assert metric in console.file.getvalue()


def test_a_method_whose_runs_failed_says_so_in_its_panel(tmp_path):
    runs = [Run('ft', 'step1', rate, rate, 0) for rate in (0.1, 0.01)]
    failed = Decision({run.name: Seen(failures=3) for run in runs}, runs)
    shown = {}
    for name, decision in dict(failed=failed, empty=Decision({}, runs)).items():
        draw_curves(decision, 'mIoU', tmp_path / f'{name}.svg')
        shown[name] = (tmp_path / f'{name}.svg').read_text()
    assert shown['failed'].count('<!-- failed -->') == 2 and shown['empty'].count('<!-- to start -->') == 2
    assert 'FT, step 1' in shown['failed']


def test_csv_holds_every_run_and_nothing_where_there_is_no_value(tmp_path):
    rows = [row_of(SweepFolder(tmp_path, Sweep({}), dict.fromkeys(('lp', 'ft', 'daft'), 'x.py'), 0.1, '', 0), run,
                   DECISION.look(run)) | {'value': DECISION.look(run).value} for run in RUNS]
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [r['name'] for r in read] == [run.name for run in RUNS]
    assert [r['value'] for r in read if r['state'] != 'done'] == ['', '']


def test_an_evaluation_joins_by_the_names_of_runs(tmp_path):
    ft = [run.name for run in RUNS if (run.method, run.stage) == ('ft', 'report')]
    head = 'measure,run,against,set,corruption,value\n'
    lines = [f'{measure},{name},,{where},{0.01 * (number + i)}\n' for i, name in enumerate(ft[:2])
             for measure, where, number in (('mIoU', 'test,', 70), ('mIoU', 'night,', 30), ('mIoU', 'test,fog', 50),
                                            ('mPC', 'test,all', 60), ('mPC', 'test,fog', 50))]
    (tmp_path / 'numbers.csv').write_text(head + ''.join(lines))
    found = read_evaluation(tmp_path / 'numbers.csv', DECISION)
    assert {measure: [*by_run] for measure, by_run in found.items()} == dict.fromkeys(
        ('mIoU test', 'mIoU night', 'mPC'), ft[:2])
    assert '| FT | 60.50 ± 0.71 | 2 of 3 (seed 2 not evaluated) |' in to_markdown(
        method_results(DECISION, found['mPC']), 'mPC')
    (tmp_path / 'numbers.csv').write_text(head + lines[0].replace(ft[0], 'FT'))
    with pytest.raises(SystemExit, match="FT is no run of the sweep. Evaluate runs by their names"):
        read_evaluation(tmp_path / 'numbers.csv', DECISION)
    (tmp_path / 'numbers.csv').write_text('level,method\n')
    with pytest.raises(SystemExit, match='nowhere.csv: not the numbers.csv of mmseg-daft evaluate'):
        read_evaluation(tmp_path / 'nowhere.csv', DECISION)


@pytest.mark.parametrize('gray', [False, True])
def test_the_winner_s_star_stands_out_of_the_curves_also_in_gray(tmp_path, gray):
    """The star is the one orange thing; in gray it is the one medium shade with a black rim."""
    path = tmp_path / 'curves.png'
    draw_curves(replace(DECISION, winners={('ft', 'step1'): RUNS[1]}), 'mIoU', path)
    with_star = cv2.imread(str(path)).astype(int)
    draw_curves(DECISION, 'mIoU', path)
    without = cv2.imread(str(path)).astype(int)
    difference = np.abs(with_star - without)
    if gray:
        difference = np.abs(with_star.mean(2) - without.mean(2))[..., None]
    assert with_star.shape[0] > 300 and (difference.max(2) > 60).sum() > 50


@pytest.mark.parametrize('gpus', [None, 0, 1])
@pytest.mark.parametrize('tested', [False, True])
def test_a_run_is_trained_again_where_and_on_what_it_was_planned_into_a_new_folder(tested, gpus, tmp_path):
    planned, program = tmp_path / 'planned here', tmp_path / 'program'
    planned.mkdir()
    program.write_text('#!/bin/sh\necho "$PWD|${CUDA_VISIBLE_DEVICES-all}|$*"\n')
    program.chmod(0o755)
    described = dict(
        directory=str(planned),
        command=[str(program), 'train.py', 'c.py', '--resume', '--work-dir', '/sweep/run/train', '--cfg-options',
                 'a=1'],
        test_command=[str(program), 'test.py', 'c.py', '--work-dir', '/sweep/run/test'])
    if gpus is not None:
        described['gpus'] = gpus
    result = dict(checkpoint='/sweep/run/train/iter_7.pth', tested=tested)
    row = dict(name='run', state='done', value=1.0, metric='mIoU', split='test', revision='aaa',
               command=retrain_command(described, result, 'run'))
    script = retrain_script([row])
    done = subprocess.run(['bash', '-c', script], env={'OUT': 'new', 'PATH': '/usr/bin:/bin'}, cwd=tmp_path,
                          capture_output=True, text=True, check=True)
    new = tmp_path / 'new' / 'run'
    where = f'{planned}|{"" if gpus == 0 else "all"}'
    test = [f'{where}|test.py c.py --work-dir {new}/test {new}/iter_7.pth']
    assert done.stdout.splitlines() == [f'{where}|train.py c.py --work-dir {new} --cfg-options a=1', *test * tested]
    without = subprocess.run(['bash', '-c', script], env={'PATH': '/usr/bin:/bin'}, capture_output=True, text=True)
    assert without.returncode and 'Name a new folder' in without.stderr
