"""Settings for all tests, and the data that they share."""

import gc
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')  # next to a second busy process, two threads are far slower than one
os.environ.setdefault('MPLBACKEND', 'Agg')

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import mmseg_daft  # noqa: F401  before anything imports mmseg

torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
os.environ['NO_PROXY'] = f'{os.environ.get("NO_PROXY", "")},127.0.0.1,localhost'
# No test is about speed, and machines pause.
settings.register_profile('any machine', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('any machine')

ROOT = Path(__file__).parents[1]


def pytest_collection_finish():
    """Spare each run half of its time: MMEngine indents its config five times, and walks through all objects twice."""
    import mmengine.config.config as config

    config.FormatCode = lambda text, **options: (f'{text}\n', True)  # tests append lines to it
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def voc_root(tmp_path_factory):
    """A small data set in the layout of VOC 2012 with the augmented annotations."""
    from support.data_layouts import write_voc
    return write_voc(tmp_path_factory.mktemp('voc'))


@pytest.fixture(scope='session')
def cityscapes_root(tmp_path_factory):
    """A small data set in the layout of Cityscapes."""
    from support.data_layouts import write_cityscapes
    return write_cityscapes(tmp_path_factory.mktemp('cityscapes'))


@pytest.fixture(scope='session')
def camvid_layout(tmp_path_factory):
    """A small data set in the layout of CamVid's day and dusk."""
    from support.data_layouts import write_camvid
    return write_camvid(tmp_path_factory.mktemp('camvid'))


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A small data set in the layout of the demo's, day and night."""
    from support.data_layouts import write_voc
    root = tmp_path_factory.mktemp('shapes')
    for domain in ('day', 'night'):
        (root / domain).mkdir()
        write_voc(root / domain, num_classes=6)
    return root


@pytest.fixture(scope='session')
def camvid_root():
    """The real CamVid, day and dusk: where $CAMVID_ROOT says, or in data/camvid."""
    for folder in (os.environ.get('CAMVID_ROOT'), ROOT / 'data' / 'camvid'):
        if folder and (Path(folder) / 'dusk').is_dir():
            return Path(folder)
    pytest.skip('CamVid is not here: set CAMVID_ROOT to run this test on real data')


@pytest.fixture
def browser(tmp_path):
    """A real browser."""
    from support.browser import opened_browser
    with opened_browser(tmp_path / 'profile') as driver:
        yield driver


@pytest.fixture
def sweep(capsys):
    """Return a function that runs a subcommand of sweep here and returns its output, one space for each blank."""
    from mmseg_daft import cli

    def run(*words, code=0):
        try:
            status = cli.main(['sweep', *map(str, words)])
        except SystemExit as stop:
            status, message = 1, stop.code
            print(message)
        output = capsys.readouterr().out
        assert status == code, output
        return ' '.join(output.split())
    return run
