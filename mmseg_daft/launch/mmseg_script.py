"""Run a script of the installed mmseg as it is; on machines without a GPU also as several processes.

Under ``--launcher slurm`` the rendezvous is set from Slurm's own variables first (``slurm_ranks.py``): two jobs on
one node would otherwise meet at MMEngine's fixed port, 29500. Ranks that meet another job's all the same end
(``slurm_store.py``).
"""

from __future__ import annotations

import gc
import importlib.util
import os
import runpy
import sys
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist

import mmseg_daft.launch.slurm_store as slurm_store
from mmseg_daft.launch.slurm_ranks import slurm_ranks

# What several processes need besides where there is no GPU.
CPU_OPTIONS = ['model_wrapper_cfg.type=CPUDistributedDataParallel']


def script_path(name: str) -> Path:
    """Return the path of mmseg's ``tools/NAME`` inside the installed package.

    Raises:
        FileNotFoundError: The installation has no such script.
    """
    package = Path(importlib.util.find_spec('mmseg').origin).parent
    for path in (package / '.mim' / 'tools' / name, package.parent / 'tools' / name):  # a wheel's place, a checkout's
        if path.is_file():
            return path
    raise FileNotFoundError(f'The mmsegmentation installed at {package} has no tools/{name}; install it from PyPI.')


def run(name: str) -> None:
    """Run mmseg's ``tools/NAME`` with this process's arguments."""
    sys.argv[0] = script = str(script_path(name))
    launcher = _launcher(sys.argv)
    if launcher == 'slurm':
        os.environ.update(slurm_ranks(os.environ))
        store = slurm_store.meet(os.environ)  # noqa: F841  it lives as long as the groups that use it
        slurm_store.join()
    own_group = launcher in ('pytorch', 'slurm') and not torch.cuda.is_available()
    if own_group:
        # MMEngine's launchers call torch.cuda.set_device; a group that exists they leave alone.
        for variable in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
            if variable not in os.environ:
                raise SystemExit(f'{variable} is not set: start several processes with torchrun, for instance '
                                 f'torchrun --nproc_per_node 2 tools/{name} CONFIG --launcher pytorch')
        dist.init_process_group('gloo')
        sys.argv += ['--cfg-options', *CPU_OPTIONS]
    try:
        runpy.run_path(script, run_name='__main__')
    except SystemExit as stop:
        if own_group and stop.code:  # the frames of a run that ended early hold its group
            stop.__traceback__ = None
            _leave_group()
        raise
    if own_group:
        _leave_group()


def _leave_group() -> None:
    # A group whose threads still run aborts the interpreter's exit, now and then. They run until the last
    # reference to the group is gone, and the runner, which holds the model that holds it, is in a cycle.
    gc.collect()
    dist.destroy_process_group()


def _launcher(argv: list[str]) -> str:
    """Return the value of ``--launcher``, 'none' without one."""
    words = ' '.join(argv[1:]).replace('--launcher=', '--launcher ').split()
    return next((after for word, after in pairwise(words) if word == '--launcher'), 'none')
