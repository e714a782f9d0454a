"""The script that makes a sweep's numbers anew, run with a program in place of Python."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'tools'))

from mmseg_daft.sweep.commands import again, commands


@pytest.mark.parametrize('tested', [False, True])
def test_a_run_is_made_anew_where_it_was_planned_into_a_new_folder(tested, tmp_path):
    planned, program = tmp_path / 'planned here', tmp_path / 'program'
    planned.mkdir()
    program.write_text('#!/bin/sh\necho "$PWD|$*"\n')
    program.chmod(0o755)
    described = dict(
        directory=str(planned),
        command=[str(program), 'train.py', 'c.py', '--resume', '--work-dir', '/sweep/run/train', '--cfg-options',
                 'a=1'],
        test_command=[str(program), 'test.py', 'c.py', '--work-dir', '/sweep/run/test'])
    result = dict(checkpoint='/sweep/run/train/iter_7.pth', tested=tested)
    row = dict(name='run', state='done', value=1.0, metric='mIoU', split='test', revision='aaa',
               command=again(described, result, 'run'))
    script = commands([row])
    done = subprocess.run(['bash', '-c', script], env={'OUT': 'new', 'PATH': '/usr/bin:/bin'}, cwd=tmp_path,
                          capture_output=True, text=True, check=True)
    new = tmp_path / 'new' / 'run'
    test = [f'{planned}|test.py c.py --work-dir {new}/test {new}/iter_7.pth']
    assert done.stdout.splitlines() == [f'{planned}|train.py c.py --work-dir {new} --cfg-options a=1', *test * tested]
    without = subprocess.run(['bash', '-c', script], env={'PATH': '/usr/bin:/bin'}, capture_output=True, text=True)
    assert without.returncode and 'Name a new folder' in without.stderr
