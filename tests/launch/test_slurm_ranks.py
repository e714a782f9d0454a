"""The rendezvous of a Slurm step, from its variables; on a real cluster: tests/slurm."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmseg_daft.launch.slurm import join_step, port_of, slurm_ranks

RANK = '''
import os
import torch, torch.distributed as dist
from mmseg_daft.launch.slurm import join_step
store = join_step(os.environ)
print('met', flush=True)
dist.init_process_group('gloo')
rank = torch.tensor(float(os.environ['SLURM_JOB_ID']))
dist.all_reduce(rank)
print(rank.item(), flush=True)
dist.barrier()
dist.destroy_process_group()
'''

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


def test_different_steps_of_different_jobs_may_have_the_same_port():
    assert port_of('1000', '1') == port_of('2009', '0') and port_of('1', '0') == port_of('22001', '0')


@pytest.fixture
def start():
    """Start a rank of a step that has a port in common with others; what still runs at the end is ended."""
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
    processes = []

    def rank(number, job, step='0'):
        env = dict(os.environ, MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), SLURM_PROCID=str(number),
                   SLURM_NTASKS='2', SLURM_JOB_ID=job, SLURM_STEP_ID=step)
        processes.append(subprocess.Popen([sys.executable, '-c', RANK], env=env, text=True, stdout=subprocess.PIPE,
                                          stderr=subprocess.PIPE))
        return processes[-1]
    yield rank
    for process in processes:
        process.kill()
        process.wait()


def listening(port):
    """Return the addresses at which something on this machine listens at a port, as Linux writes them."""
    lines = [line.split() for table in ('tcp', 'tcp6') for line in Path(f'/proc/net/{table}').read_text().splitlines()]
    places = [line[1].split(':') for line in lines if line[3] == '0A']
    return {address for address, its_port in places if int(its_port, 16) == port}


@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='needs Linux')
@pytest.mark.parametrize(('address', 'places'), [('127.0.0.1', {'0100007F'}), ('localhost', None)])
def test_the_store_listens_at_the_job_s_own_address(address, places):
    """A name that stands for the loopback here may stand for the network on the other nodes."""
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
    env = {**TASK, 'SLURM_PROCID': '0', 'MASTER_ADDR': address, 'MASTER_PORT': str(port)}
    store = join_step(env)
    found = listening(port)
    assert found == places if places else found & {'0' * 8, '0' * 32}
    assert store.get('slurm_step') == b'1234.0'


@pytest.mark.slow
def test_ranks_that_meet_another_job_s_at_its_port_end_and_leave_it_undisturbed(start):
    zero = start(0, '1000', '1')
    assert zero.stdout.readline() == 'met\n'
    for stranger, said in ((start(1, '2009'), 'met step 1000.1 at 127.0.0.1'),
                           (start(1, '1000', '2'), 'met step 1000.1 at 127.0.0.1'),
                           (start(0, '2009'), 'Another job on the node may have that port')):
        _, message = stranger.communicate(timeout=300)
        assert stranger.returncode == 1 and said in message and 'Start again with another port' in message
    one = start(1, '1000', '1')
    assert one.communicate(timeout=300)[0] == 'met\n2000.0\n' and zero.communicate(timeout=300)[0] == '2000.0\n'
    assert (zero.returncode, one.returncode) == (0, 0)
