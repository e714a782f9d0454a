"""Every argument of every command, of wrong types and ranges: one sentence with the fix, and nothing is written."""

import argparse
import importlib
import re

import pytest
import torch
from support.pretrained_files import trained_state
from support.small_runs import small

from mmseg_daft import cli

DAFT = 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
FIX = re.compile(r'\b([Gg]ive|[Nn]ame|[Ww]rite|[Pp]ut|[Uu]se|[Ss]et|Did you mean|choose from|shows|start|needs) ')


def at_least(number, whole=True):
    return ['x', '', 'nan', 'inf', str(number - 1), *['1.5'] * whole]


RATE, PART, SEED = ['0', '-1', 'nan', 'inf', 'x'], ['0', '1', '-0.1', 'nan', 'x'], [*at_least(0), '4294967296']
CONFIG, CHECKPOINT = ['nowhere.py', '.'], ['nowhere.pth', 'config.py']
OUT, OPTIONS, NAMED = ['file/out'], ['novalue', 'no_such_key.y=1'], ['bakbone']
WHERE = {'--executor': ['slrum'], '--parallel': at_least(1), '--hours': RATE, '--slurm': ['partition', '=x']}
OFFLINE = {'--modules': NAMED, '--num-batches': [*at_least(1), '99'], '--statistics': ['.', *OUT],
           '--device': ['nonsense'], '--cfg-options': OPTIONS}
MMSEG = {'config': CONFIG, '--cfg-options': OPTIONS, '--launcher': ['slrum'], '--local_rank': at_least(0),
         '--work-dir': OUT}
WRONG = {
    'doctor': {'config': CONFIG, '--cfg-options': OPTIONS, '--gpus': at_least(1)},
    'domain-gap': {'config': CONFIG, 'checkpoint': CHECKPOINT, '--out': OUT, '--compare': ['nowhere.json', 'config.py'],
                   '--probe-batches': at_least(2), **OFFLINE},
    'convert': {'config': CONFIG, 'checkpoint': CHECKPOINT, 'out': [*OUT, '.', 'config.py'], **OFFLINE},
    'train': MMSEG,
    'test': {**MMSEG, 'checkpoint': CHECKPOINT, '--out': OUT, '--show-dir': OUT, '--wait-time': at_least(0, False)},
    'lpft': {'lp': CONFIG, 'lpft': CONFIG, '--work-dir': [*OUT, 'a b'], '--gpus': at_least(1),
             '--cfg-options': OPTIONS},
    'probe': {'config': CONFIG, '--work-dir': OUT, '--cfg-options': OPTIONS},
    'sweep plan': {
        'folder': OUT, '--method': ['ft', 'dfat=config.py', 'ft=nowhere.py'], '--start': ['mocco'],
        '--search': ['relased'], '--grids-of': ['voc'],
        '--grid': ['ft.1', 'ft.1=x', 'ft.1=0.1,0', 'ft.9=1', 'lp.1=0.1'], '--fixed-head-lr': RATE, '--held-out': PART,
        '--held-out-by': ['city'], '--held-out-seed': at_least(0), '--select-seeds': SEED, '--report-seeds': SEED,
        '--gpus-per-run': at_least(0), '--metric': ['mIuO'], '--cfg-options': OPTIONS, '--probe': at_least(1), **WHERE},
    'sweep run': {'folder': ['nowhere'], '--max-failures': at_least(0), '--interval': RATE, **WHERE},
    'sweep status': {'folder': ['nowhere']},
    'sweep collect': {'folder': ['nowhere'], '--evaluation': []},  # needs a sweep: tests/sweep/test_results.py
    'analyze': {
        'config': CONFIG, 'runs': ['FT', '=x', 'FT=nowhere.pth'], '--pretrained': CHECKPOINT, '--out': OUT,
        '--stages': ['9', 'x'], '--split': ['tset'], '--images': at_least(1), '--batch-size': at_least(1),
        '--workers': at_least(0), '--formats': ['gif'], '--cfg-options': OPTIONS, '--launcher': ['slrum', 'pytorch']},
    'evaluate': {
        'config': CONFIG, 'runs': ['FT', '=x', 'FT=nowhere.pth'], '--sets': ['nowhere.py', 'config.py'],
        '--corruptions': ['fogg'], '--severities': ['0', '6', '3-9', 'x'], '--reference': ['DAFT'], '--out': OUT,
        '--cache': ['file'], '--workers': at_least(0), '--formats': ['gif'], '--cfg-options': OPTIONS,
        '--launcher': ['slrum', 'pytorch']},
    'interpolate': {
        'config': CONFIG, 'start': CHECKPOINT, 'end': CHECKPOINT, '--alphas': ['x', '-0.1', '1.1', 'nan'],
        '--sets': ['nowhere.py', 'config.py'], '--num-batches': at_least(1), '--out': OUT, '--workers': at_least(0),
        '--cfg-options': OPTIONS},
    'configs list': {'filters': ['nowhere']},
    'configs copy': {'config': ['nowhere.py'], 'folder': OUT}}
SOUND = {  # positional arguments, in order
    'doctor': dict(config='config.py'), 'domain-gap': dict(config='config.py', checkpoint='start.pth'),
    'convert': dict(config='config.py', checkpoint='start.pth', out='out.pth'), 'train': dict(config='config.py'),
    'test': dict(config='config.py', checkpoint='start.pth'), 'lpft': dict(lp='config.py', lpft='config.py'),
    'probe': dict(config='config.py'),
    'sweep plan': dict(folder='sweep'), 'sweep run': dict(folder='sweep'), 'sweep status': dict(folder='sweep'),
    'sweep collect': dict(folder='sweep'), 'analyze': dict(config='config.py', runs='FT=start.pth'),
    'evaluate': dict(config='config.py', runs='FT=start.pth'),
    'interpolate': dict(config='config.py', start='config', end='start.pth'),
    'configs list': dict(filters=''), 'configs copy': dict(config=f'{DAFT}', folder='configs')}


def arguments(parser, words):
    """Yield a command's words, and its arguments' names and numbers of values; of subcommands, those of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from arguments(sub, f'{words} {name}')
        elif not isinstance(action, argparse._HelpAction):
            yield words, (action.option_strings or [action.dest])[0], action.nargs


def every_argument():
    for name, (module, _) in cli.COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(module).add_arguments(parser)
        yield from arguments(parser, name)


def test_the_table_is_whole():
    taking = [(command, name) for command, name, values in every_argument() if values != 0]
    assert sorted(taking) == sorted((command, name) for command, names in WRONG.items() for name in names)


@pytest.fixture(scope='module')
def folder(camvid_layout, tmp_path_factory):
    """A folder with a sound config and a checkpoint, to run commands in."""
    folder = tmp_path_factory.mktemp('sound')
    cfg = small(DAFT, folder / 'run', camvid_layout, iters=1)
    cfg.model.backbone.init_cfg = None
    torch.save(dict(state_dict=trained_state(dict(cfg.model))), folder / 'start.pth')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(folder / 'start.pth'), prefix='backbone')
    cfg.pop('experiment_name')
    cfg.dump(folder / 'config.py')
    (folder / 'file').touch()
    return folder


def refusal(words, capsys):
    """Return what a command says that is refused, without what libraries say."""
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(cli.main(words))
    assert stop.value.code not in (0, None)
    if isinstance(stop.value.code, str):
        return stop.value.code
    said = capsys.readouterr()
    return next((line for line in said.err.splitlines() if line.startswith('mmseg-daft ')), ' '.join(said.out.split()))


@pytest.mark.parametrize(('command', 'name', 'value'), [
    (command, name, value) for command, names in WRONG.items() for name, values in names.items() for value in values])
def test_a_wrong_argument(command, name, value, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv('COLUMNS', '1000')
    before = sorted(folder.rglob('*'))
    option = [f'{name}={value}'] if name.startswith('-') else []
    words = [*command.split(), *{**SOUND[command], **({} if option else {name: value})}.values(), *option]
    if command == 'sweep plan' and name != '--method':
        words += ['--method', 'ft=config.py']
    if name == '--cache':
        words += ['--corruptions', 'fog']
    said = refusal(words, capsys)
    assert value.strip('.').removeprefix('ft=').removeprefix('FT=') in said or name in said, said
    assert FIX.search(said) and '\n' not in said and 'Traceback' not in said and 'Errno' not in said, said
    assert sorted(folder.rglob('*')) == before


@pytest.mark.parametrize(('words', 'says'), [
    (['--show'], '--show: there is no screen here.*--show-dir DIR'),
    (['--show', '--wait-time', '0'], 'there is no screen here'),
    (['--show-dir', 'drawn', '--cfg-options', 'visualizer=None'], "set visualizer = dict\\(type='SegLocalVisualizer'"),
    (['--show', '--cfg-options', 'default_hooks.visualization=None'], 'config.py has nothing that draws'),
    (['--show-dir', 'drawn', '--cfg-options', 'default_hooks=None'], 'config.py has nothing that draws')])
def test_what_cannot_be_drawn_or_shown_is_refused_before_the_evaluation(words, says, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert re.search(says, refusal(['test', 'config.py', 'start.pth', *words], capsys))
    assert not (folder / 'drawn').exists()


@pytest.mark.parametrize(('command', 'name'), [
    (command, name) for command, name, values in every_argument() if values == 0])
def test_a_flag_takes_no_value(command, name, capsys):
    words = [*command.split(), *SOUND[command].values(), *['--method=ft=x.py'] * (command == 'sweep plan')]
    assert f"argument {name}: ignored explicit argument 'x'" in refusal([*words, f'{name}=x'], capsys)
