"""The command line: every command's help and its end after a bad argument, what a start imports, the configs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_daft import cli, extras
from mmseg_daft.launch import configs

ROOT = Path(__file__).parents[2]
HEAVY = {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'sklearn', 'matplotlib', 'numpy', 'rich', 'submitit'}
PAGES = [[], *([name] for name in cli.COMMANDS), *(['sweep', part] for part in ('plan', 'run', 'status', 'collect')),
         ['configs', 'list'], ['configs', 'copy']]
SHIMS = dict(doctor='doctor', domain_gap='domain-gap', convert_checkpoint='convert', train='train', test='test',
             lpft='lpft', probe='probe', sweep='sweep', analyze_distortion='analyze')
CONFIG = 'daft/daft_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py'


def start(*words, **env):
    """Start a process; return its output and the top-level modules that it imported."""
    done = subprocess.run([sys.executable, '-X', 'importtime', *map(str, words)], capture_output=True, text=True,
                          env=dict(os.environ, COLUMNS='80', **env))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, {line.split('|')[-1].strip().split('.')[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize('words', PAGES, ids=' '.join)
def test_help_fits_80_columns_and_imports_nothing_heavy(words):
    page, imported = start('-m', 'mmseg_daft', *words, '--help')
    assert page.startswith(f'usage: {" ".join(["mmseg-daft", *words])}')
    assert [line for line in page.splitlines() if len(line) > 80] == []
    assert imported & HEAVY == set()


@pytest.mark.parametrize(('shim', 'name'), SHIMS.items(), ids=SHIMS)
def test_the_files_in_tools_start_the_commands(shim, name, tmp_path):
    """Also where torch cannot be imported, of which doctor tells."""
    (tmp_path / 'torch.py').write_text('raise ImportError("broken")')
    page, imported = start(ROOT / 'tools' / f'{shim}.py', '--help', PYTHONPATH=str(tmp_path))
    assert page.startswith(f'usage: mmseg-daft {name} ') and imported & HEAVY == set()


def test_every_file_in_tools_is_known():
    assert {path.stem for path in (ROOT / 'tools').glob('[!_]*.py')} == set(SHIMS)


BAD = dict(
    doctor=['nowhere.py', '--gpus', 'x'], convert=['nowhere.py', 'nowhere.pth', 'out.pth'], train=['nowhere.py'],
    test=['nowhere.py', 'nowhere.pth'], lpft=['nowhere.py', 'nowhere.py'], probe=['nowhere.py'],
    sweep=['collect', 'nowhere'],
    analyze=['nowhere.py', 'FT=nowhere.pth'], evaluate=['nowhere.py', 'FT=nowhere.pth'], configs=['copy', 'nowhere.py'])
BAD.update({'domain-gap': ['nowhere.py'], 'interpolate': ['nowhere.py', 'config', 'nowhere.pth']})


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_a_bad_argument_ends_in_a_sentence(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main([name, '--no-such-option'])
    assert stop.value.code == 2 and f'mmseg-daft {name}' in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(cli.main([name, *BAD[name]]))
    assert stop.value.code not in (0, None)
    said = f'{stop.value.code} {capsys.readouterr().err}'
    assert 'nowhere' in said or "'x'" in said


def positional(name):
    return BAD[name][:1 if name == 'doctor' else None]


CONFIGS = {
    'syntax': (b'model = dict(', 'Line 1: SyntaxError'), 'brackets': (b'model = [(1, 2]', 'Line 1: SyntaxError'),
    'missing base': (b"_base_ = 'nowhere.py'", 'nowhere.py'), 'not UTF-8': (b"x = '\xe9'", 'as UTF-8'),
    'exit': (b'exit(3)', 'SystemExit: 3'),
    'empty': (b'', 'lacks model'), 'a part': (b'x = 1', 'lacks model')}


@pytest.mark.parametrize(('content', 'says'), CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize('name', [
    'doctor', 'domain-gap', 'convert', 'analyze', 'train', 'test', 'lpft', 'probe', 'sweep'])
def test_a_config_that_cannot_be_read_ends_in_one_sentence(name, content, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '1000')
    (tmp_path / 'nowhere.pth').touch()
    (tmp_path / 'config.py').write_bytes(content)
    words = ['config.py', *positional(name)[1:]]
    if name == 'sweep':
        words = ['plan', 'sweep', '--method', 'ft=config.py']
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(cli.main([name, *words]))
    assert stop.value.code not in (0, None)
    said = ''.join(map(str, (stop.value.code, *capsys.readouterr())))
    assert 'config.py' in said and says in said and 'Traceback' not in said


@pytest.mark.parametrize('words', [['no-such-command'], [], ['--no-such-option', 'train'], ['--', 'train']])
def test_without_a_command_the_usage_is_said(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and 'usage: mmseg-daft' in capsys.readouterr().err


@pytest.mark.parametrize(('package', 'extra'), [('submitit', 'sweep'), ('mmseg', 'lite')])
def test_a_missing_extra_is_named(package, extra, monkeypatch):
    def run(args):
        raise ModuleNotFoundError(f'No module named {package!r}', name=package)
    monkeypatch.setattr(configs, 'run', run)
    with pytest.raises(SystemExit, match=rf"configs needs {package}.*pip install 'mmseg-daft\[{extra}\]'"):
        cli.main(['configs', 'list'])
    monkeypatch.setattr(extras, 'EXTRAS', {})
    with pytest.raises(ModuleNotFoundError):
        cli.main(['configs', 'list'])


def test_a_library_that_cannot_be_imported_is_no_missing_extra(monkeypatch):
    def run(args):
        raise ModuleNotFoundError("No module named 'mmcv._ext'", name='mmcv._ext')
    monkeypatch.setattr(configs, 'run', run)
    with pytest.raises(ModuleNotFoundError, match='_ext'):
        cli.main(['configs', 'list'])


def test_configs_are_listed_by_words_at_the_terminal_s_width(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    assert cli.main(['configs', 'list']) == 0
    every = capsys.readouterr().out
    names = [line for line in every.splitlines() if line.endswith('.py')]
    assert names == sorted(str(path.relative_to(ROOT / 'configs')) for path in (ROOT / 'configs').glob('[a-z]*/*.py'))
    assert max(map(len, every.splitlines()[:-1])) <= 80
    assert cli.main(['configs', 'list', 'DAFT', 'shapes']) == 0
    some = capsys.readouterr().out
    assert CONFIG in some and 'DAFT from ImageNet to the demo' in some and 'cityscapes' not in some
    with pytest.raises(SystemExit, match='None of the .* has daft and nowhere'):
        cli.main(['configs', 'list', 'daft', 'nowhere'])


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('[a-z]*/*.py')), ids=lambda path: path.stem)
def test_a_copied_config_is_the_same_where_it_lies(path, tmp_path):
    assert cli.main(['configs', 'copy', path.name, str(tmp_path)]) == 0
    before, copied = (Config.fromfile(root / path.parent.name / path.name, import_custom_modules=False)
                      for root in (ROOT / 'configs', tmp_path))
    assert copied.to_dict() == before.to_dict()


def test_a_copy_does_not_replace_what_was_edited(tmp_path, capsys):
    copy = ['configs', 'copy', CONFIG, str(tmp_path)]
    assert cli.main(copy) == 0 and cli.main(copy) == 0
    assert f'mmseg-daft train {tmp_path / CONFIG}' in capsys.readouterr().out
    (tmp_path / CONFIG).write_text('# mine')
    with pytest.raises(SystemExit, match='differ: .*Name another DIR, or remove them'):
        cli.main(copy)
    assert (tmp_path / CONFIG).read_text() == '# mine'


def test_in_a_checkout_the_copy_is_there_already(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(['configs', 'copy', CONFIG]) == 0


def test_a_work_directory_with_another_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check, path = ['train', '--check-work-dir'], str(ROOT / 'configs' / CONFIG)
    for place, words in ((f'work_dirs/{Path(CONFIG).stem}', ()), ('mine', ('--work-dir', 'mine')),
                         ('option', ('--cfg-options', 'work_dir=option'))):
        assert cli.main([*check, path, *words]) == 0
        Path(place).mkdir(parents=True)
        Path(place, 'last_checkpoint').write_text('x')
        with pytest.raises(SystemExit, match=f'{place} holds the checkpoints .*another --work-dir, or add --resume'):
            cli.main([*check, path, *words])
        assert cli.main([*check, path, '--resume', *words]) == 0


@pytest.mark.parametrize(('text', 'option', 'said'), [
    ('model = dict(', 'x=1', 'cannot be read. Line 1: SyntaxError'), ("_base_ = 'none.py'", 'x=1', 'none.py'),
    ('x = 1', 'novalue', '--cfg-options novalue: not KEY=VALUE of'),
    ('x = 1', 'x.y=1', r'--cfg-options x.y=1: not KEY=VALUE of .*Write settings of the config')])
@pytest.mark.parametrize('words', [['train'], ['train', '--check-work-dir'], ['lpft']], ids=' '.join)
def test_a_config_or_an_option_that_cannot_be_read_ends_in_a_sentence(words, text, option, said, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(SystemExit, match=said) as stop:
        cli.main([*words, *[str(path)] * (1 + (words == ['lpft'])), '--cfg-options', option])
    assert 'config.py' in stop.value.code
