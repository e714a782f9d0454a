"""What runs on a GPU, on this CPU at toy sizes: every check, and the command around them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
sys.path.append(str(BENCHMARKS))

import gpu_checks  # noqa: E402
import on_gpu  # noqa: E402

CPU = torch.device('cpu')


@pytest.mark.parametrize('check', gpu_checks.CHECKS)
def test_a_check_finds_right_numbers(check, tmp_path):
    torch.manual_seed(0)
    numbers, tables = gpu_checks.CHECKS[check](CPU, gpu_checks.TOY, tmp_path)
    assert numbers and not [number for number in numbers if number.wrong]
    assert len(tables) == {'passes': 1, 'steps': 2}.get(check, 0)


def test_a_number_is_wrong_above_its_limit_or_if_there_is_none():
    assert [gpu_checks.Number('', value, 1).wrong for value in (1, 1.1, math.nan)] == [False, True, True]


def test_a_check_that_hangs_is_ended_and_told():
    outcome = on_gpu.run_apart('moments', CPU, 0.1)
    assert outcome.failed and 'none after 0 s' in outcome.error
    assert on_gpu.run_apart('moments', CPU, 0).failed


def test_the_command_writes_and_draws_what_it_found(tmp_path):
    done = subprocess.run([sys.executable, str(BENCHMARKS / 'on_gpu.py'), '--device', 'cpu', '--results', str(tmp_path),
                           'moments'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'All 1 checks passed' in done.stdout
    path = tmp_path / 'on_gpu_cpu.json'
    (check,) = json.loads(path.read_text())['setting']['checks']
    assert check['check'] == 'moments' and len(check['numbers']) == 36 and not check['failed']
    table = subprocess.run([sys.executable, str(BENCHMARKS / 'table.py'), str(path)], capture_output=True, text=True)
    assert '| moments: nearest of 36 to its limit: ' in table.stdout, table.stderr
