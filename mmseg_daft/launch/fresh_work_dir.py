"""Refuse to start a training in a work directory that holds another one: what slurm_requeue.sh asks on a first start.

    python tools/fresh_work_dir.py CONFIG [train.py's arguments]

A job that Slurm restarts has to resume, and would silently go on with whatever run the directory holds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from mmseg_daft.engine.configs import merge_options


def work_dir_of(words: list[str]) -> tuple[Path, bool]:
    """Return the work directory that mmseg's ``train.py`` takes, and whether its ``--resume`` is among the words."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    parser.add_argument('--resume', action='store_true')
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--cfg-options', nargs='+', default=[])
    args, _ = parser.parse_known_args(words)
    if args.work_dir is None:
        cfg = Config.fromfile(args.config, import_custom_modules=False)
        merge_options(cfg, args.cfg_options)
        args.work_dir = cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    return Path(args.work_dir), args.resume


def main(words: list[str] | None = None) -> None:
    """Do what the command line says.

    Raises:
        SystemExit: The directory holds a checkpoint of another run.
    """
    place, resume = work_dir_of(sys.argv[1:] if words is None else words)
    if (place / 'last_checkpoint').exists() and not resume:
        raise SystemExit(f'{place.absolute()} holds the checkpoints of an earlier run. Name another --work-dir, or add '
                         '--resume to go on with that run.')


if __name__ == '__main__':
    main()
