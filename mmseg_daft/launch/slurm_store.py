"""The meeting point of a Slurm step's ranks, where each asks first whose it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

from torch.distributed import TCPStore

PATIENCE = timedelta(minutes=30)  # as of torch.distributed: ranks may start long after one another


def meet(env: Mapping[str, str], patience: timedelta = PATIENCE) -> TCPStore:
    """Return the store at ``MASTER_ADDR`` and ``MASTER_PORT`` by which the ranks of this step find one another.

    Ports are finite, so a rank may knock at the store of another job. It learns so here, before it has taken the place
    of a rank there. ``join`` has the process groups use the store, which has to live as long as they do.

    Raises:
        SystemExit: The port belongs to another job or step, or to another program.
    """
    address, port, step = env['MASTER_ADDR'], int(env['MASTER_PORT']), step_of(env)
    fix = 'Start again with another port, by PORT=… or MASTER_PORT.'
    who, master = f'Rank {env["RANK"]} of Slurm step {step}', env['RANK'] == '0'
    try:
        store = TCPStore(address, port, None, master, patience, wait_for_workers=False)
        if master:
            store.set('slurm_step', step)
        owner = store.get('slurm_step').decode()
    except RuntimeError as error:
        raise SystemExit(f'{who} cannot meet the others at {address}:{port}: {error}. Another job on the node may have '
                         f'that port. {fix}') from error
    if owner != step:
        raise SystemExit(f'{who} met step {owner} at {address}:{port}: both have the same port. {fix}')
    return store


def step_of(env: Mapping[str, str]) -> str:
    """Return job and step as Slurm writes them, JOB.STEP."""
    return f'{env["SLURM_JOB_ID"]}.{env.get("SLURM_STEP_ID", "0")}'


def join() -> None:
    """Have process groups use the store that is there, as they do under torchrun, instead of opening their own."""
    os.environ['TORCHELASTIC_USE_AGENT_STORE'] = 'True'
