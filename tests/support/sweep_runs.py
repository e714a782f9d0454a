"""Small configs of every method on the shapes, as files, for whole sweeps of real trainings."""

from __future__ import annotations

from pathlib import Path

from support.pretrained_files import write_start
from support.small_runs import SMALL, small


def write_methods(folder: Path, shapes_root: Path, methods: tuple[str, ...], iters: int = 2) -> dict[str, Path]:
    """Write a config per method and return their paths; each starts from the same weights."""
    paths = {}
    for method in methods:
        cfg = small(SMALL / f'{method}.py', folder / 'unused', shapes_root, iters=iters)
        if method != 'lpft':  # which starts from a run of the sweep
            write_start(cfg, folder)
        for key in ('experiment_name', 'work_dir'):
            cfg.pop(key)
        cfg.dump(folder / f'{method}.py')
        paths[method] = folder / f'{method}.py'
    return paths
