"""Doctor names versions that do not go together and packages that are missing or broken, also without any of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmseg_daft.doctor.environment import check_ops, check_versions
from mmseg_daft.doctor.finding import Verdict

ROOT = Path(__file__).parents[2]
GOOD = {'torch': '2.11.0+cpu', 'torchvision': '0.26.0+cpu', 'numpy': '2.4.6', 'mmcv-lite': '2.1.0', 'ftfy': '6',
        'mmengine': '0.10.7', 'mmsegmentation': '1.2.2', 'setuptools': '84.2.1', 'regex': '2026.1.1'}
FORK = {'onedl-mmcv': '2.3.6', 'onedl-mmengine': '0.10.12', 'onedl-mmsegmentation': '1.4.2'}


def versions(changes, python=(3, 11), bases=False):
    named = {name: version for name, version in {**GOOD, **changes}.items() if version}
    found = list(check_versions(named, python, bases))
    return [(finding.verdict.value, finding.found + finding.fix) for finding in found if finding.verdict != Verdict.OK]


@pytest.mark.parametrize('changes', [
    {}, {'torch': '2.15.0+cpu', 'torchvision': '0.29.2+cpu'},
    {'mmcv-lite': None, 'mmcv': '2.1.0', 'torch': '2.1.2', 'torchvision': '0.16.2', 'numpy': '1.26.4'},
    {**{name: None for name in GOOD if name.startswith('mm')}, **FORK, 'ftfy': None, 'regex': None}])
def test_versions_that_go_together_pass(changes):
    assert versions(changes) == []


@pytest.mark.parametrize('changes, verdict, words', [
    ({'mmcv-lite': '2.2.0'}, 'FAIL', "pip install 'mmcv-lite>=2.1,<2.2'"),
    ({'mmcv-lite': None, 'mmcv': '2.2.0'}, 'FAIL', "pip install 'mmcv>=2.1,<2.2'"),
    ({'mmcv-lite': None, 'mmcv': '1.7.2'}, 'FAIL', 'refuses mmcv 1.7.2'),
    ({'mmcv': '2.1.0'}, 'FAIL', 'mmcv and mmcv-lite are both installed'),
    ({'onedl-mmsegmentation': '1.4.2'}, 'FAIL', 'mmsegmentation and onedl-mmsegmentation are both'),
    ({'torch': '2.2.0+cpu', 'torchvision': '0.17.0+cpu'}, 'FAIL', "pip install 'numpy<2'"),
    ({'torchvision': '0.25.0+cpu'}, 'FAIL', "torchvision==0.26.*"),
    ({'torch': '2.15.0+cpu', 'torchvision': '0.28.0+cpu'}, 'FAIL', "torchvision==0.30.*"),
    ({'torchvision': '0.26.0+cu128'}, 'WARN', 'different devices'),
    ({'ftfy': None}, 'FAIL', 'pip install ftfy'), ({'regex': None}, 'FAIL', 'pip install regex'),
    ({'mmengine': '0.10.4'}, 'WARN', 'older than 0.10.7'), ({'mmengine': None}, 'FAIL', 'mmengine is not installed'),
    ({'mmsegmentation': '0.30.0'}, 'FAIL', '0.x series'), ({'mmcv-lite': None}, 'FAIL', 'mmcv is not installed'),
    ({'torchvision': None, 'torch': None}, 'FAIL', 'torch is not installed')])
def test_versions_that_break_are_named(changes, verdict, words):
    found = versions(changes)
    assert any(kind == verdict and words in text for kind, text in found), found


def test_versions_that_break_some_configs_or_pythons():
    assert "setuptools<82" in versions({}, bases=True)[0][1] and not versions({'setuptools': '81.0'}, bases=True)
    assert '3.14' in versions({}, python=(3, 14))[0][1]
    assert [f.verdict for f in check_ops({'ResNet', 'PointHead'}, False)] == [Verdict.FAIL]
    assert [f.verdict for f in check_ops({'ResNet', 'PointHead'}, True)] == [Verdict.OK]


HIDE = '''
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name.split('.')[0] in {!r} else find(name, *args)
'''


def test_doctor_speaks_where_nothing_but_the_standard_library_can_be_imported(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        HIDE.format(('mmengine', 'mmseg', 'mmcv', 'torch', 'torchvision', 'numpy', 'rich')))
    assert "No module named 'numpy'" in words_of_doctor(tmp_path)


def test_doctor_speaks_where_a_package_is_broken(tmp_path):
    (tmp_path / 'mmengine.py').write_text("raise OSError('undefined symbol')")
    assert 'OSError: undefined symbol' in words_of_doctor(tmp_path)


def words_of_doctor(path):
    """Run the command in a process of its own with this folder first on the path; return what it prints."""
    (path / 'config.py').write_text('x = 1')
    done = subprocess.run([sys.executable, '-m', 'mmseg_daft', 'doctor', path / 'config.py'], text=True, cwd=ROOT,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': f'{path}:{ROOT}'})
    assert done.returncode == 1 and done.stderr == '' and 'Traceback' not in done.stdout
    words = ' '.join(done.stdout.split())
    assert 'torch 2' in words and 'mmseg_daft and mmseg cannot be imported' in words and 'the rest' in words
    assert words.endswith('1 problem would waste this run.')
    return words


def test_packages_that_cannot_be_imported_end_the_examination(case, examine, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg_daft.doctor.training', None)
    exam = examine(case.write())
    assert exam.problems == 1 and 'cannot be imported' in exam.text('imports', Verdict.FAIL)
    assert '[lite]' in exam.text('imports', Verdict.FAIL) and exam.text('the rest', Verdict.SKIP)
