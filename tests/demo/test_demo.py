"""The demo's data, and the demo itself with few iterations."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from demo.conclusion import conclude
from demo.folder_iou import FolderIoU
from docs import draw_budgets
from mmseg_daft.run_output import RunFailedError, run_logged

ROOT = Path(__file__).parents[2]
SMALL = ['--day-train', '12', '--day-val', '4', '--night-train', '12', '--night-val', '4']


def run(*words):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=ROOT,
                          env=dict(os.environ, OMP_NUM_THREADS='1', COLUMNS='80'))


def hashes(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp('rendered')
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        assert run('-m', 'demo.render', root / name, '--seed', seed, *SMALL).returncode == 0
    return root


def test_rendering_is_a_function_of_the_seed(rendered):
    a, b, c = (hashes(rendered / name) for name in 'abc')
    assert a == b and a.keys() == c.keys()
    assert not any(a[name] == c[name] for name in a if name.endswith('.jpg'))
    assert run('-m', 'demo.render', rendered / 'a', '--seed', 0, *SMALL).returncode == 0
    assert hashes(rendered / 'a') == a


@pytest.mark.parametrize('domain', ['day', 'night'])
def test_the_layout_is_that_of_voc_and_all_classes_occur(rendered, domain):
    root = rendered / 'a' / domain
    classes = set()
    for split, count in (('train', 12), ('val', 4)):
        names = (root / 'ImageSets' / 'Segmentation' / f'{split}.txt').read_text().split()
        assert len(names) == count
        for name in names:
            image = cv2.imread(str(root / 'JPEGImages' / f'{name}.jpg'))
            labels = cv2.imread(str(root / 'SegmentationClass' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
            assert image.shape[:2] == labels.shape
            classes |= set(np.unique(labels).tolist())
    assert classes == set(range(6))


def test_the_domains_differ_in_light(rendered):
    means = [np.mean([cv2.imread(str(p)).mean() for p in (rendered / 'a' / domain / 'JPEGImages').glob('*.jpg')])
             for domain in ('day', 'night')]
    assert means[1] < 0.8 * means[0]


def test_corruptions_are_of_the_validation_images_of_the_day(rendered):
    root = rendered / 'a'
    names = (root / 'corrupted' / 'ImageSets' / 'Segmentation' / 'val.txt').read_text().split()
    assert len(names) == 16 and names[0] == 'val_0000_noise'
    for name in names:
        stem, _, kind = name.rpartition('_')
        day, corrupted = (cv2.imread(str(root / folder / 'JPEGImages' / f'{file}.jpg')).astype(float)
                          for folder, file in (('day', stem), ('corrupted', name)))
        same_mean = abs((corrupted - day).mean()) < 8
        assert dict(noise=15 < (corrupted - day).std() < 35 and same_mean,
                    blur=cv2.Laplacian(corrupted, -1).std() < 0.5 * cv2.Laplacian(day, -1).std() and same_mean,
                    dark=0.35 < corrupted.mean() / day.mean() < 0.45,
                    contrast=0.35 < corrupted.std() / day.std() < 0.45 and same_mean)[kind], name
        labels = [(root / folder / 'SegmentationClass' / f'{file}.png').read_bytes()
                  for folder, file in (('day', stem), ('corrupted', name))]
        assert labels[0] == labels[1]


def row(method, seed, day, night, corrupted, curve):
    return dict(method=method, seed=seed, day=day, night=night, corrupted=corrupted, curve=curve)


@pytest.mark.parametrize('daft, ft, said', [
    ([(70, 40, 30), (72, 40.5, 34)], [(60, 40.2, 38), (61, 40.1, 37)],
     'DAFT is ahead of FT on daylight (+10.5), level with FT on night (+0.1), behind FT on corrupted daylight (-5.5).'),
    ([(50, 20, 20), (50, 20, 20)], [(60, 30, 30), (60, 30, 30)],
     'DAFT is behind FT on daylight (-10.0), night (-10.0) and corrupted daylight (-10.0).'),
    ([(70, 30, 30), (50, 30, 30)], [(60, 30, 30), (45, 40, 30.5)],  # the seeds disagree about the night
     'DAFT is ahead of FT on daylight (+7.5), level with FT on night (-5.0) and corrupted daylight (-0.2).'),
    ([(60, 30, 30)], [(60, 30, 30)],
     'DAFT is level with FT on daylight (+0.0), night (+0.0) and corrupted daylight (+0.0).')])
def test_the_conclusion_says_what_the_numbers_do(daft, ft, said):
    rows = [row(method, seed, *miou, {10: 0.5, 20: miou[0]}) for method, runs in (('ft', ft), ('daft', daft))
            for seed, miou in enumerate(runs)]
    assert conclude(rows, 20)[0] == said


@pytest.mark.parametrize('curves, said', [
    (({10: 61, 20: 70}, {10: 30, 20: 61.0}), 'after 10 (seed 0) and 20 (seed 3) of 20 iterations'),
    (({10: 61, 20: 70}, {10: 30, 20: 60.9}), 'after 10 (seed 0) and never (seed 3) of 20 iterations'),
    (({10: 59, 20: 59}, {10: 30, 20: 60.9}), 'It never reaches the final mIoU of FT')])
def test_the_conclusion_says_how_soon(curves, said):
    rows = [row('ft', 0, 1, 1, 1, {10: 80, 20: 60}), row('ft', 3, 1, 1, 1, {10: 10, 20: 61}),
            *(row('daft', seed, 1, 1, 1, curve) for seed, curve in zip((0, 3), curves))]
    assert said in conclude(rows, 20)[1]
    assert conclude(rows[:2], 20) == conclude(rows[2:], 20) == []


def test_a_metric_of_one_folder_is_that_of_its_images_alone(tmp_path):
    def sample(folder, seed):
        labels = torch.Generator().manual_seed(seed)
        label, told = torch.randint(0, 3, (2, 1, 8, 8), generator=labels)
        return dict(img_path=str(tmp_path / folder / f'{seed}.png'),
                    gt_sem_seg=dict(data=label), pred_sem_seg=dict(data=told))

    samples = [sample('day', 0), sample('night', 1), sample('day', 2)]
    found = {}
    for folder in ('day', 'night'):
        mine, all_of = FolderIoU(str(tmp_path / folder)), IoUMetric()
        for metric, given in ((mine, samples), (all_of, [s for s in samples if f'/{folder}/' in s['img_path']])):
            metric.dataset_meta = dict(classes='abc')
            metric.process({}, given)
        found[folder] = mine.evaluate(3)
        assert found[folder] == {f'{folder}/{key}': value for key, value in all_of.evaluate(3).items()}
    assert found['day']['day/mIoU'] != found['night']['night/mIoU']


@pytest.mark.slow
def test_the_demo_leaves_table_picture_and_numbers_also_over_an_earlier_run(tmp_path):
    demo = tmp_path / 'demo'
    for left_over in ('ft/seed-0/iter_4.pth', 'lp/seed-0/20200101_000000/vis_data/scalars.json', 'data/rendered.json'):
        (demo / left_over).parent.mkdir(parents=True)
        (demo / left_over).write_text('{}')
    refused = run('-m', 'demo', '--quick', '--folder', demo)
    assert refused.returncode != 0 and "not the demo's" in refused.stderr
    assert (demo / 'ft' / 'seed-0' / 'iter_4.pth').exists()
    refused = run('-m', 'demo', '--quick', '--folder', demo, '--methods', 'lpft')
    assert refused.returncode != 0 and 'name lp, too' in refused.stderr
    (demo / '.mmseg_daft_demo').touch()
    result = run('-m', 'demo', '--quick', '--folder', demo, '--methods', 'lpft', 'daft', 'lp', '--seeds', '0', '3')
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert 'BN conversion of backbone: 48 layers found, 48 converted' in result.stdout
    rows = json.loads((demo / 'results.json').read_text())['rows']
    assert [(r['method'], r['seed']) for r in rows] == [(m, s) for m in ('lp', 'lpft', 'daft') for s in (0, 3)]
    for found in rows:
        assert list(found['curve']) == list(found['curve_night']) == ['1', '2', '3', '4']
        assert f'{found["day"]:.1f}' in result.stdout
        cells = found['cosine_similarity'] == 1  # LP keeps the backbone
        assert cells == (found['method'] == 'lp') and 0 <= found['corrupted'] <= 100
        predictions = {path.parent.name for path in (demo / found['method']).rglob('test/*/val_0000*.png')}
        assert predictions == {'day', 'night', 'corrupted'}
    assert 'DAFT is' in result.stdout and 'of LP-FT on daylight' in ' '.join(result.stdout.split())
    picture = cv2.imread(str(demo / 'demo.png'))
    assert picture.shape[0] > 600 and picture.std() > 10
    log = (demo / 'lpft' / 'seed-3' / 'train.log').read_text()
    assert f'load model from: {demo}/lp/seed-3/iter_4.pth' in log
    assert len(result.stdout.splitlines()) < 80, 'the console is no longer readable'
    assert all(len(line) <= 80 and '…' not in line for line in result.stdout.splitlines() if str(tmp_path) not in line)


def test_the_lengths_of_the_training_can_be_drawn(tmp_path):
    for folder, quick, iterations in (('b', False, 200), ('a', False, 100), ('c', True, 4)):
        (tmp_path / folder).mkdir()
        rows = [dict(row(method, seed, 60.0 + seed, 30.0, 40.0, {}), cosine_similarity=0.5, curve_night={})
                for method in ('daft', 'ft') for seed in (0, 1)]
        (tmp_path / folder / 'results.json').write_text(json.dumps(dict(quick=quick, iterations=iterations, rows=rows)))
    rows = draw_budgets.read([tmp_path / 'b', tmp_path / 'a'])
    assert [(r['method'], r['iterations'], r['seed']) for r in rows] == [
        (method, iterations, seed) for method in ('ft', 'daft') for iterations in (100, 200) for seed in (0, 1)]
    figure = draw_budgets.draw(rows)
    lines, dots = figure.axes[0].lines[:2]
    assert list(lines.get_xdata()) == [100, 200] and list(lines.get_ydata()) == [60.5, 60.5]
    assert list(dots.get_ydata()) == [60, 61, 60, 61]
    figure.savefig(tmp_path / 'budgets.png')
    with pytest.raises(ValueError, match='c is of --quick'):
        draw_budgets.read([tmp_path / 'c'])


def test_the_environment_can_be_set_before_torch_is_imported():
    assert run('-c', 'import sys, demo.__main__\n'
               'sys.exit(bool({"torch", "mmengine", "mmseg_daft"} & sys.modules.keys()))').returncode == 0


def test_a_run_that_fails_raises_with_the_end_of_its_log(tmp_path):
    with pytest.raises(RunFailedError, match='gone wrong'):
        run_logged([sys.executable, '-c', 'raise SystemExit("gone wrong")'], tmp_path / 'x.log', tmp_path, {})
