"""Run a script of the installed mmseg as it is; on machines without a GPU also as several processes."""

from __future__ import annotations

import gc
import importlib.util
import os
import runpy
import sys
from pathlib import Path

import torch
import torch.distributed as dist

# What `--launcher pytorch` needs besides where there is no GPU.
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
    own_group = _asks_for_launcher(sys.argv) and not torch.cuda.is_available()
    if own_group:
        # MMEngine's launchers call torch.cuda.set_device; a group that exists they leave alone.
        for variable in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
            if variable not in os.environ:
                raise SystemExit(f'{variable} is not set: start several processes with torchrun, for instance '
                                 f'torchrun --nproc_per_node 2 tools/{name} CONFIG --launcher pytorch')
        dist.init_process_group('gloo')
        sys.argv += ['--cfg-options', *CPU_OPTIONS]
    runpy.run_path(script, run_name='__main__')
    if own_group:
        # A group whose threads still run aborts the interpreter's exit, now and then. They run until the last
        # reference to the group is gone, and the runner, which holds the model that holds it, is in a cycle.
        gc.collect()
        dist.destroy_process_group()


def _asks_for_launcher(argv: list[str]) -> bool:
    joined = ' '.join(argv[1:]).replace('--launcher=', '--launcher ')
    return '--launcher ' in joined and '--launcher none' not in joined
