"""What torch.distributed wants to know, from the variables that Slurm sets in every task of ``srun``."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping

# Below the ports that Linux gives to outgoing connections (32768 and up), above the well-known ones.
FIRST_PORT, PORTS = 10000, 22000


def slurm_ranks(env: Mapping[str, str]) -> dict[str, str]:
    """Return ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` of this task.

    An address or a port that is set already stays. The address is that of the step's first node; the port comes
    from job and step, so that jobs that run side by side on a node seldom have the same (MMEngine takes 29500 for
    each, and two jobs then mix their ranks: MMEngine issue 169). Where they have, ``slurm_store.meet`` tells.

    Raises:
        SystemExit: This is no task of ``srun``.
    """
    missing = [name for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_JOB_ID') if name not in env]
    if missing:
        raise SystemExit(f'--launcher slurm, but {missing[0]} is not set: start the tasks with srun, for instance by '
                         'tools/slurm_train.sh PARTITION JOB CONFIG')
    return dict(
        RANK=env['SLURM_PROCID'],
        WORLD_SIZE=env['SLURM_NTASKS'],
        LOCAL_RANK=env.get('SLURM_LOCALID', '0'),
        MASTER_ADDR=env.get('MASTER_ADDR') or _first_node(env),
        MASTER_PORT=env.get('MASTER_PORT') or str(port_of(env['SLURM_JOB_ID'], env.get('SLURM_STEP_ID', '0'))))


def port_of(job: str, step: str) -> int:
    """Return a port for a job's step.

    The same step of 22,000 jobs in a row has different ones, and so have a job's steps; different steps of different
    jobs may meet: step 1 of job 1000 has the port of step 0 of job 2009.
    """
    return FIRST_PORT + (int(job) + 1009 * int(step)) % PORTS


def _first_node(env: Mapping[str, str]) -> str:
    nodes = env.get('SLURM_STEP_NODELIST') or env.get('SLURM_JOB_NODELIST', '')
    if int(env.get('SLURM_STEP_NUM_NODES', env.get('SLURM_JOB_NUM_NODES', '1'))) == 1:
        return '127.0.0.1'
    first = _scontrol('show', 'hostnames', nodes).split()[0]
    try:
        socket.getaddrinfo(first, None)
    except OSError:  # known to Slurm alone
        first = re.search(r'\bNodeAddr=(\S+)', _scontrol('show', 'node', first)).group(1)
    return first


def _scontrol(*words: str) -> str:
    done = subprocess.run(['scontrol', *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'scontrol {" ".join(words)}: {done.stderr.strip()}. Export MASTER_ADDR=ADDRESS of rank 0.')
    return done.stdout
