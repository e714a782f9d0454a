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

from mmseg_daft.run_output import RunFailedError, run_logged

ROOT = Path(__file__).parents[2]
SMALL = ['--source-train', '12', '--source-val', '4', '--target-train', '12', '--target-val', '4']


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


@pytest.mark.parametrize('domain', ['source', 'target'])
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
             for domain in ('source', 'target')]
    assert means[1] < 0.8 * means[0]


@pytest.mark.slow
def test_the_demo_leaves_table_picture_and_numbers_also_over_an_earlier_run(tmp_path):
    for left_over in ('ft/iter_4.pth', 'source/20200101_000000/vis_data/scalars.json', 'data/rendered.json'):
        (tmp_path / 'demo' / left_over).parent.mkdir(parents=True)
        (tmp_path / 'demo' / left_over).write_text('{}')
    refused = run('-m', 'demo', '--quick', '--folder', tmp_path / 'demo')
    assert refused.returncode != 0 and "not the demo's" in refused.stderr
    assert (tmp_path / 'demo' / 'ft' / 'iter_4.pth').exists()
    refused = run('-m', 'demo', '--quick', '--folder', tmp_path / 'demo', '--methods', 'lpft')
    assert refused.returncode != 0 and 'name lp, too' in refused.stderr
    (tmp_path / 'demo' / '.mmseg_daft_demo').touch()
    result = run('-m', 'demo', '--quick', '--folder', tmp_path / 'demo', '--methods', 'lpft', 'daft', 'lp')
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert 'BN conversion of backbone: 20 layers found, 20 converted' in result.stdout
    rows = json.loads((tmp_path / 'demo' / 'results.json').read_text())['rows']
    assert list(rows) == ['source', 'lp', 'lpft', 'daft']
    assert rows['lp']['cosine_similarity'] == 1 and rows['lp']['l2_distance'] == 0  # its backbone is frozen
    for row in rows.values():
        assert set(row) == {'miou_target', 'miou_source', 'cosine_similarity', 'l2_distance'}
        assert f'{row["miou_target"]:.2f}' in result.stdout
    picture = cv2.imread(str(tmp_path / 'demo' / 'demo.png'))
    assert picture.shape[0] > 600 and picture.std() > 10
    log = (tmp_path / 'demo' / 'lpft' / 'train.log').read_text()
    assert f'load model from: {tmp_path}/demo/lp/iter_4.pth' in log
    assert len(result.stdout.splitlines()) < 80, 'the console is no longer readable'
    table = result.stdout.split('Source to target domain')[1].split('Feature distortion')[0]
    assert 'similarity' in table and '…' not in table
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(tmp_path) not in line)


def test_the_environment_can_be_set_before_torch_is_imported():
    assert run('-c', 'import sys, demo.__main__\n'
               'sys.exit(bool({"torch", "mmengine", "mmseg_daft"} & sys.modules.keys()))').returncode == 0


def test_a_run_that_fails_raises_with_the_end_of_its_log(tmp_path):
    with pytest.raises(RunFailedError, match='gone wrong'):
        run_logged([sys.executable, '-c', 'raise SystemExit("gone wrong")'], tmp_path / 'x.log', tmp_path, {})
