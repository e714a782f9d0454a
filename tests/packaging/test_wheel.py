"""What a user of the wheel has: sdist and wheel are built, and the wheel is used outside of the repository.

The new environment sees this one's libraries (torch, mmseg), so that nothing is downloaded.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from mmseg_daft.cli import COMMANDS
from mmseg_daft.launch.mmseg_script import script_path
from mmseg_daft.version import __version__

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CONFIG = 'daft_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py'
MIM = ('openmim==0.3.9', 'model-index==0.1.11', 'charset-normalizer', 'colorama', 'markdown', 'ordered-set', 'pandas',
       'python-dateutil', 'pytz', 'requests', 'six', 'tabulate', 'urllib3')
BUILD = 'import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])'


def call(*words, cwd, **env):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=cwd,
                          env={name: value for name, value in dict(os.environ, **env).items() if name != 'PYTHONPATH'})
    assert done.returncode == 0, f'{words}\n{done.stdout[-2000:]}{done.stderr[-3000:]}'
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The sdist of a copy of the repository, and the wheel that is built from the sdist."""
    folder = tmp_path_factory.mktemp('built')
    ignored = shutil.ignore_patterns('.*', 'build', 'dist', 'work_dirs', 'data', '__pycache__', '*.egg-info')
    shutil.copytree(ROOT, folder / 'copy', ignore=ignored)
    call(sys.executable, '-c', BUILD.format('sdist'), folder, cwd=folder / 'copy')
    sdist, = folder.glob('*.tar.gz')
    shutil.unpack_archive(sdist, folder / 'unpacked')
    source, = (folder / 'unpacked').iterdir()
    call(sys.executable, '-c', BUILD.format('wheel'), folder, cwd=source)
    wheel, = folder.glob('*.whl')
    return source, wheel


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    """The folder of programs of a new environment that has the wheel, and finds this environment's libraries."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, symlinks=True)
    python = folder / 'bin' / 'python'
    own = call(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=folder).strip()
    Path(own, 'libraries.pth').write_text('\n'.join(path for path in sys.path if path.endswith('site-packages')))
    call(python, '-m', 'pip', 'install', '--ignore-installed', '--no-deps', '--no-index', built[1], cwd=folder)
    assert str(folder) in call(python, '-c', 'import mmseg_daft; print(mmseg_daft.__file__)', cwd=folder)
    return folder / 'bin'


def shipped(root):
    return {f'{name}/{path.relative_to(root / name)}' for name in ('configs', 'tools')
            for path in (root / name).rglob('*') if path.is_file() and path.suffix != '.pyc'}


def test_sdist_and_wheel_hold_configs_tools_and_launchers(built):
    source, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        held = {info.filename: info for info in archive.infolist()}
        about = archive.read(f'mmseg_daft-{__version__}.dist-info/METADATA').decode()
    mim = {name.partition('.mim/')[2] for name in held if '/.mim/' in name}
    assert mim == shipped(source) == shipped(ROOT)
    assert {'mmseg_daft/py.typed', 'mmseg_daft/cli.py'} <= held.keys()
    assert {f'mmseg_daft/{path.relative_to(ROOT / "mmseg_daft")}' for path in (ROOT / 'mmseg_daft').rglob('*.j2')
            if '.mim' not in path.parts} <= held.keys()
    assert all(info.external_attr >> 16 & 0o100 for name, info in held.items() if name.endswith('.sh'))
    assert 'Apache-2.0' in about and 'Author: mmseg_daft contributors' in about
    assert not re.search(r'\]\((?!https?:)', about), 'a link into the repository, which a package index cannot follow'
    assert f'\nVersion: {__version__}\n' in about and 'Description-Content-Type: text/markdown' in about
    assert f'\n## {__version__}' in (ROOT / 'CHANGELOG.md').read_text()


def test_every_command_has_its_help(installed, tmp_path):
    for name in COMMANDS:
        assert call(installed / 'mmseg-daft', name, '--help', cwd=tmp_path).startswith(f'usage: mmseg-daft {name}')
    for shim in (installed.parent / 'lib').rglob('mmseg_daft/.mim/tools/[!_]*.py'):
        assert call(installed / 'python', shim, '--help', cwd=tmp_path).startswith('usage: mmseg-daft')


@pytest.fixture(scope='module')
def train(shapes_root):
    """Train a shipped config for two iterations on small data, by the words of a command, and check that it was."""
    options = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2',
               'default_hooks.batch.images=2',
               'train_dataloader.dataset.pipeline.2.crop_size=(32,32)', 'model.data_preprocessor.size=(32,32)']

    def run(*words, cwd):
        output = call(*words, '--work-dir', 'run', '--cfg-options', *options, cwd=cwd, SHAPES_ROOT=str(shapes_root))
        assert 'BN conversion of backbone: 48 layers found, 48 converted' in output and 'mIoU: ' in output
        assert (cwd / 'run' / 'iter_2.pth').is_file()
    return run


@pytest.fixture(scope='module')
def inside(installed):
    """The config in the wheel."""
    path, = (installed.parent / 'lib').rglob(f'mmseg_daft/.mim/configs/daft/{CONFIG}')
    return path


def test_a_copied_config_trains(installed, train, tmp_path):
    assert f'daft/{CONFIG}' in call(installed / 'mmseg-daft', 'configs', 'list', 'daft', 'shapes', cwd=tmp_path)
    call(installed / 'mmseg-daft', 'configs', 'copy', CONFIG, 'mine', cwd=tmp_path)
    train(installed / 'mmseg-daft', 'train', f'mine/daft/{CONFIG}', cwd=tmp_path)


def test_mmseg_s_own_script_trains_the_config_in_the_wheel(installed, train, inside, tmp_path):
    train(installed / 'python', script_path('train.py'), inside, cwd=tmp_path)


@pytest.fixture(scope='module')
def mim(installed):
    """openmim, beside the wheel: it pins a setuptools of its own, so it stays out of the tests' environment."""
    done = subprocess.run([installed / 'python', '-m', 'pip', 'install', '--no-deps', *MIM], capture_output=True,
                          text=True)
    if done.returncode:
        pytest.skip(f'openmim cannot be installed here: {done.stderr[-300:]}')


@pytest.mark.parametrize('package', ['mmseg_daft', 'mmsegmentation'])
def test_mim_trains(mim, installed, train, inside, tmp_path, package):
    config = CONFIG if package == 'mmseg_daft' else inside
    train(installed / 'python', '-c', 'from mim.cli import cli; cli()', 'train', package, config, '--gpus', '0',
          cwd=tmp_path)
