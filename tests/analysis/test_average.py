"""Several analyses in one table, and the table of the page on CamVid from the numbers that are kept beside it."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from mmseg_daft.analysis.report import COLUMNS
from mmseg_daft.cli import main

ROOT = Path(__file__).parents[2]
CHANGES = [f'relative_change_{kind}' for kind in ('conv_weight', 'bn_weight', 'bn_bias', 'bn_mean', 'bn_variance')]


def write_numbers(path, rows):
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, restval='')
        writer.writeheader()
        writer.writerows(rows)
    return path


def analysis(path, seed, method='FT'):
    """The kinds of rows that an analysis has, with numbers of chance; return the path and its summary."""
    cosine, cka, *layers = np.random.default_rng(seed).random(6)
    stage = dict(method=method, stage='4')
    return write_numbers(path, [
        dict(stage, level='image', measure='cosine_similarity', statistic='median', value=cosine),
        dict(stage, level='image', measure='cosine_similarity', statistic='interval_low', value=7),
        dict(stage, level='image', measure='cosine_similarity', image='a.png', statistic='value', value=8),
        dict(stage, level='pixel', measure='cosine_similarity', bin_low=0, bin_high=1, statistic='count', value=9),
        dict(stage, level='stage', measure='cka', statistic='value', value=cka),
        *(dict(method=method, level='layer', measure='bn_drift_mean', layer=str(i), statistic='value', value=value)
          for i, value in enumerate(layers))]), (cosine, cka, np.median(layers))


def test_mean_and_standard_deviation_over_analyses(tmp_path, capsys):
    paths, summaries = zip(*(analysis(tmp_path / f'{seed}.csv', seed) for seed in range(3)))
    assert main(['analyze', *map(str, paths), '--out', str(tmp_path / 'out.csv')]) == 0
    with (tmp_path / 'out.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['level'], row['measure'], row['runs']) for row in rows] == [
        ('image', 'cosine_similarity', '3'), ('stage', 'cka', '3'), ('layer', 'bn_drift_mean', '3')]
    np.testing.assert_allclose([float(row['mean']) for row in rows], np.mean(summaries, 0), rtol=1e-5)
    np.testing.assert_allclose([float(row['standard_deviation']) for row in rows], np.std(summaries, 0, ddof=1),
                               rtol=1e-5)
    assert f'{np.mean(summaries, 0)[0]:.3f} ± {np.std(summaries, 0, ddof=1)[0]:.3f}' in capsys.readouterr().out


def test_what_no_analysis_knows_stays_unknown(tmp_path):
    """Debiased CKA is NaN for fewer than four images."""
    paths = [write_numbers(tmp_path / f'{name}.csv', [
        dict(method='FT', stage='4', level='stage', measure='debiased_cka', statistic='value', value='nan')])
        for name in 'ab']
    assert main(['analyze', *map(str, paths), '--out', str(tmp_path / 'out.csv')]) == 0
    with (tmp_path / 'out.csv').open() as file:
        assert [(row['mean'], row['standard_deviation']) for row in csv.DictReader(file)] == [('nan', 'nan')]


def test_what_cannot_be_averaged_is_refused(tmp_path, capsys):
    one, other = (analysis(tmp_path / f'{name}.csv', 0, name)[0] for name in ('FT', 'DAFT'))
    (tmp_path / 'bad.csv').write_text('a,b\n1,2\n')
    none, bad = tmp_path / 'none.csv', tmp_path / 'bad.csv'
    for paths, says in (((one, one), 'needs two analyses or more, each once'), ((one, none), 'There is no'),
                        ((one, other), 'do not hold the same'), ((one, bad), 'is not the numbers')):
        assert main(['analyze', *map(str, paths)]) == 1
        assert says in capsys.readouterr().err


@pytest.mark.parametrize('level, measures', [
    ('stage', {'image': ['cosine_similarity', 'l2_distance'], 'pixel': ['cosine_similarity'],
               'stage': ['cka', 'debiased_cka']}),
    ('layer', {'layer': [*CHANGES, 'bn_drift_mean', 'bn_drift_log_variance']})])
def test_the_page_on_camvid_shows_the_numbers_that_are_kept(level, measures):
    with (ROOT / 'docs' / 'camvid_distortion.csv').open() as file:
        kept = {(row['stage'], row['method'], row['level'], row['measure']): row for row in csv.DictReader(file)}
    page = (ROOT / 'docs' / 'camvid_distortion.md').read_text()
    for stage in '1234' if level == 'stage' else ('',):
        for method in ('FT', 'DAFT'):
            rows = [kept[stage, method, where, measure] for where, names in measures.items() for measure in names]
            shown = []
            for row in rows:
                digits = 2 if row['measure'] == 'l2_distance' else 3
                shown.append(' ± '.join(f'{float(row[key]):.{digits}f}' for key in ('mean', 'standard_deviation')))
            line = ' | '.join([*filter(None, [stage]), method, *shown])
            assert re.search(rf'^\| {re.escape(line)} \|$', page, re.MULTILINE), line
