"""What the Slurm scripts do before there is a step, with programs in place of Slurm's; on a real one: tests/slurm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
DAFT = TOOLS.parent / 'configs' / 'daft' / 'daft_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py'


@pytest.fixture
def slurm(tmp_path):
    """Run a script; return its exit status, its output, and the words that srun was given."""
    (tmp_path / 'bin').mkdir()
    programs = dict(srun='printf "%s\\n" "$@" > "$WORDS"', scontrol=f'echo " Command={TOOLS}/slurm_requeue.sh"')
    for name, text in programs.items():
        (tmp_path / 'bin' / name).write_text(f'#!/bin/sh\n{text}\n')
        (tmp_path / 'bin' / name).chmod(0o755)

    def run(script, *words, **env):
        given = tmp_path / 'words'
        given.unlink(missing_ok=True)
        done = subprocess.run(
            [TOOLS / script, *map(str, words)], capture_output=True, text=True, cwd=tmp_path,
            env=dict(os.environ, PATH=f'{tmp_path / "bin"}:{os.environ["PATH"]}', WORDS=str(given), **env))
        return done.returncode, done.stderr, given.read_text().splitlines() if given.exists() else None
    return run


@pytest.mark.parametrize(('script', 'words'), [('slurm_train.sh', 'pjc'), ('slurm_test.sh', 'pjcw')])
def test_arguments_of_srun_are_taken_apart_at_quotes_and_a_lost_quote_is_said(slurm, script, words):
    code, _, given = slurm(script, *words, SRUN_ARGS='--nodes=1 --comment="two words"')
    assert code == 0 and '--comment=two words' in given and '--nodes=1' in given and '' not in given
    code, message, given = slurm(script, *words, SRUN_ARGS='--account=mine --comment="two words')
    assert code == 2 and 'a quote in it has no end' in message and given is None
    assert slurm(script, *words)[0] == 0


@pytest.mark.slow
def test_a_first_start_does_not_go_on_with_another_run(slurm, tmp_path):
    python = dict(PYTHON=sys.executable, SLURM_JOB_ID='7')
    for restarts in ('0', '1'):  # a job can be taken off before its first checkpoint
        code, _, given = slurm('slurm_requeue.sh', DAFT, '--cfg-options', 'randomness.seed=1',
                               SLURM_RESTART_COUNT=restarts, **python)
        assert code == 0 and '--resume' not in given and 'randomness.seed=1' in given
    place = tmp_path / 'work_dirs' / DAFT.stem
    place.mkdir(parents=True)
    (place / 'last_checkpoint').write_text('x')
    code, message, given = slurm('slurm_requeue.sh', DAFT, **python)
    assert code == 2 and given is None and f'{place} holds the checkpoints' in message
    assert 'another --work-dir' in message and '--resume' in message
    code, _, given = slurm('slurm_requeue.sh', DAFT, '--resume', **python)
    assert code == 0 and given.count('--resume') == 1
    code, _, given = slurm('slurm_requeue.sh', DAFT, SLURM_RESTART_COUNT='1', **python)
    assert code == 0 and '--resume' in given
