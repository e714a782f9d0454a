"""Run mmseg's own ``train.py`` or ``test.py`` in this process; without a GPU also as one of several processes."""

import argparse
import gc
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mmseg_daft
from mmseg_daft.files import shipped
from mmseg_daft.options import add_cfg_options, at_least

NEEDED_TO_TRAIN = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
"""What a config has to have for a training."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``train.py`` and ``test.py`` have in common."""
    parser.add_argument('config', metavar='CONFIG')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='what started the processes, if there are several')
    parser.add_argument('--local_rank', '--local-rank', type=at_least(0), help=argparse.SUPPRESS)


def script_path(name: str) -> Path:
    """Return the path of mmseg's ``tools/NAME`` inside the installed package.

    Raises:
        ModuleNotFoundError: mmseg is not installed.
        FileNotFoundError: The installation has no such script.
    """
    spec = importlib.util.find_spec('mmseg')
    if spec is None:
        raise ModuleNotFoundError("No module named 'mmseg'", name='mmseg')
    package = Path(spec.origin).parent
    path = shipped(package, f'tools/{name}')
    if path is None:
        raise FileNotFoundError(f'The mmsegmentation installed at {package} has no tools/{name}; install it from PyPI.')
    return path


def run_script(name: str, launcher: str, words: Sequence[str], find_unused_parameters: bool = False) -> int:
    """Run mmseg's ``tools/NAME`` with these words, and return its exit status.

    Under ``--launcher slurm`` the rendezvous is set from Slurm's own variables: two jobs on one node would otherwise
    meet at MMEngine's fixed port, 29500. ``find_unused_parameters`` is the config's: MMEngine passes it on to its own
    wrapper for distributed training alone.

    Raises:
        SystemExit: The processes cannot meet.
    """
    mmseg_daft.register()  # first: it repairs what keeps mmseg from being imported with mmcv-lite
    import torch
    import torch.distributed as dist

    from mmseg_daft.launch import slurm

    path = script_path(name)
    sys.argv = [str(path), *words]
    if launcher == 'slurm':
        store = slurm.join_step(os.environ)  # noqa: F841  it has to live as long as the groups that use it
    own_group = launcher in ('pytorch', 'slurm') and not torch.cuda.is_available()
    if own_group:
        # MMEngine's launchers call torch.cuda.set_device; a group that exists they leave alone.
        missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
        if missing:
            raise SystemExit(f'{missing[0]} is not set: start several processes with torchrun, for instance torchrun '
                             f'--nproc_per_node 2 -m mmseg_daft {path.stem} CONFIG --launcher pytorch')
        dist.init_process_group('gloo')
        sys.argv += ['--cfg-options', 'model_wrapper_cfg.type=CPUDistributedDataParallel']
        if find_unused_parameters:
            sys.argv += ['model_wrapper_cfg.find_unused_parameters=True']
    spec = importlib.util.spec_from_file_location(f'mmseg_{path.stem}', path)
    script = importlib.util.module_from_spec(spec)
    status = 0
    try:
        spec.loader.exec_module(script)
        script.main()
    except SystemExit as stop:
        status = stop.code or 0
    if own_group:
        # A group with threads that still run aborts the interpreter's exit, now and then. They run until the last
        # reference to the group is gone, and the runner, which holds the model that holds it, is in a cycle.
        gc.collect()
        dist.destroy_process_group()
    return status
