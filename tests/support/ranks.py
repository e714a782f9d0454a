"""Run a function on several real processes of one gloo group."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(world_size: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Return what ``function(rank, world_size, *args)`` gave on each rank; an error is returned as such.

    Forked, which spares each process the seconds of its imports.
    """
    folder.mkdir(exist_ok=True)
    processes = mp.start_processes(
        _run, (world_size, function, str(folder), args), nprocs=world_size, start_method='fork', join=False)
    deadline = time.monotonic() + 600
    for process in processes.processes:
        process.join(max(0, deadline - time.monotonic()))
    hung = [rank for rank, process in enumerate(processes.processes) if process.is_alive()]
    for rank in hung:
        processes.processes[rank].kill()
    assert not hung, f'ranks {hung} hang'
    paths = [folder / f'{rank}.pt' for rank in range(world_size)]
    return [torch.load(path, weights_only=False) if path.exists() else None for path in paths]


def _run(rank: int, world_size: int, function: Callable[..., Any], folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/rendezvous', rank=rank, world_size=world_size)
    try:
        result = function(rank, world_size, *args)
    except Exception as error:
        result = error
    torch.save(result, f'{folder}/{rank}.pt')
    os._exit(0)  # torch 2.1 may hang for ever in destroying a gloo group
