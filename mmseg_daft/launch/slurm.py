"""How the ranks of a Slurm step find one another, and nobody else's."""

import errno
import ipaddress
import re
import socket
import subprocess
from collections.abc import Mapping, MutableMapping
from datetime import timedelta

from torch.distributed import TCPStore

# Below the ports that Linux gives to outgoing connections (32768 and up), above the well-known ones.
FIRST_PORT, PORTS = 10000, 22000


def slurm_ranks(env: Mapping[str, str]) -> dict[str, str]:
    """Return ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` of this task.

    An address or a port that is set already stays. The address is that of the step's first node; the port comes
    from job and step, so that jobs side by side on a node seldom have the same (MMEngine takes 29500 for each, and
    two jobs then mix their ranks: MMEngine issue 169). Where they have, ``join_step`` notices.

    Raises:
        SystemExit: This is not a task of ``srun``.
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


def join_step(env: MutableMapping[str, str]) -> TCPStore:
    """Set this task's ranks in the environment, meet the step's other ranks, and let process groups use that store.

    Ports are finite, so a rank may reach the store of another job. It learns so here, before it has taken the place of
    a rank there.

    Returns:
        The store, which has to live as long as the process groups.

    Raises:
        SystemExit: This is not a task of ``srun``, or its port belongs to another job or step, or to another program.
    """
    env.update(slurm_ranks(env))
    address, port = env['MASTER_ADDR'], int(env['MASTER_PORT'])
    step = f'{env["SLURM_JOB_ID"]}.{env.get("SLURM_STEP_ID", "0")}'  # as Slurm writes it
    fix = 'Start again with another port, by PORT=… or MASTER_PORT.'
    who, master = f'Rank {env["RANK"]} of Slurm step {step}', env['RANK'] == '0'
    try:
        # As patient as torch.distributed: ranks may start long after one another.
        server = _listen(address, port) if master else None
        store = TCPStore(address, port, None, master, timedelta(minutes=30), wait_for_workers=False,
                         master_listen_fd=None if server is None else server.detach())
        if master:
            store.set('slurm_step', step)
        owner = store.get('slurm_step').decode()
    except (RuntimeError, OSError) as error:
        raise SystemExit(f'{who} cannot meet the others at {address}:{port}: {error}. Another job on the node may have '
                         f'that port. {fix}') from error
    if owner != step:
        raise SystemExit(f'{who} met step {owner} at {address}:{port}: both have the same port. {fix}')
    env['TORCHELASTIC_USE_AGENT_STORE'] = 'True'  # as under torchrun: groups do not open a store of their own
    return store


def _listen(address: str, port: int) -> socket.socket | None:
    """Listen at an address of this machine alone, as whoever reaches a store can write to it.

    ``None`` where that cannot be: TCPStore then listens at all addresses. A name may stand for this machine's loopback
    here (Debian's 127.0.1.1) and for its network on the other nodes.

    Raises:
        OSError: The port is taken.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        if place[0] != address and ipaddress.ip_address(place[0]).is_loopback:
            return None
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        return None


def _first_node(env: Mapping[str, str]) -> str:
    nodes = env.get('SLURM_STEP_NODELIST') or env.get('SLURM_JOB_NODELIST', '')
    if int(env.get('SLURM_STEP_NUM_NODES', env.get('SLURM_JOB_NUM_NODES', '1'))) == 1:
        return '127.0.0.1'
    first = _scontrol('show', 'hostnames', nodes).split()[0]
    try:
        socket.getaddrinfo(first, None)
    except OSError:  # a name that only Slurm knows
        first = re.search(r'\bNodeAddr=(\S+)', _scontrol('show', 'node', first)).group(1)
    return first


def _scontrol(*words: str) -> str:
    done = subprocess.run(['scontrol', *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'scontrol {" ".join(words)}: {done.stderr.strip()}. Export MASTER_ADDR=ADDRESS of rank 0.')
    return done.stdout
