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

ROOT = Path(__file__).parents[2]
SMALL = ['--source-train', '12', '--source-val', '4', '--target-train', '12', '--target-val', '4']


def run(*words, cwd=ROOT):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd,
                          env=dict(os.environ, OMP_NUM_THREADS='1', COLUMNS='120'))


def hashes(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp('rendered')
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        assert run('tools/render_shapes.py', root / name, '--seed', seed, *SMALL).returncode == 0
    return root


def test_rendering_is_a_function_of_the_seed(rendered):
    a, b, c = (hashes(rendered / name) for name in 'abc')
    assert a == b and a.keys() == c.keys()
    assert not any(a[name] == c[name] for name in a if name.endswith('.jpg'))
    assert run('tools/render_shapes.py', rendered / 'a', '--seed', 0, *SMALL).returncode == 0
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


def test_the_demo_leaves_table_picture_and_numbers_also_over_an_earlier_run(tmp_path):
    for left_over in ('ft/iter_4.pth', 'source/20200101_000000/vis_data/scalars.json', 'data/rendered.json'):
        (tmp_path / 'demo' / left_over).parent.mkdir(parents=True)
        (tmp_path / 'demo' / left_over).write_text('{}')
    refused = run('tools/demo.py', '--quick', '--folder', tmp_path / 'demo')
    assert refused.returncode != 0 and "not the demo's" in refused.stderr
    assert (tmp_path / 'demo' / 'ft' / 'iter_4.pth').exists()
    refused = run('tools/demo.py', '--quick', '--folder', tmp_path / 'demo', '--methods', 'lpft')
    assert refused.returncode != 0 and 'name lp, too' in refused.stderr
    (tmp_path / 'demo' / '.mmseg_daft_demo').touch()
    result = run('tools/demo.py', '--quick', '--folder', tmp_path / 'demo', '--methods', 'lpft', 'daft', 'lp')
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
    assert len(result.stdout.splitlines()) < 60, 'the console is no longer readable'


def test_a_run_that_fails_raises_with_the_end_of_its_log(tmp_path):
    result = run('-c', "import sys; sys.path.insert(0, 'tools')\n"
                 'from pathlib import Path\nfrom mmseg_daft.run_output import run_logged\n'
                 f"run_logged([sys.executable, '-c', 'raise SystemExit(\"gone wrong\")'], "
                 f"Path({str(tmp_path / 'x.log')!r}), Path('.'), {{}})")
    assert 'RunFailedError' in result.stderr and 'gone wrong' in result.stderr
