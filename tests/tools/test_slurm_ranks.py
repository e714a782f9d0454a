"""The rendezvous of a Slurm step, from its variables; on a real cluster: tests/slurm."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / 'tools'))

from slurm_ranks import port_of, slurm_ranks

TASK = dict(SLURM_PROCID='3', SLURM_NTASKS='4', SLURM_LOCALID='1', SLURM_JOB_ID='1234', SLURM_STEP_ID='0',
            SLURM_STEP_NUM_NODES='1', SLURM_STEP_NODELIST='node7')


def test_a_task_knows_its_rank():
    ranks = slurm_ranks(TASK)
    assert (ranks['RANK'], ranks['WORLD_SIZE'], ranks['LOCAL_RANK']) == ('3', '4', '1')
    assert ranks['MASTER_ADDR'] == '127.0.0.1' and ranks['MASTER_PORT'] == str(port_of('1234', '0'))


def test_what_the_user_sets_stays():
    ranks = slurm_ranks({**TASK, 'MASTER_ADDR': '10.0.0.1', 'MASTER_PORT': '4711'})
    assert (ranks['MASTER_ADDR'], ranks['MASTER_PORT']) == ('10.0.0.1', '4711')


def test_outside_of_srun_it_says_what_to_do():
    with pytest.raises(SystemExit, match='start the tasks with srun'):
        slurm_ranks({})


@given(st.integers(1, 10**7), st.integers(1, 21_999), st.integers(0, 40))
def test_jobs_that_run_at_the_same_time_have_different_ports(job, later, step):
    assert port_of(str(job), str(step)) != port_of(str(job + later), str(step))
    assert port_of(str(job), str(step)) != port_of(str(job), str(step + 1))
    assert 10000 <= port_of(str(job), str(step)) < 32768  # Linux gives out the ports from there on
