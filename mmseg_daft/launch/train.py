"""Train with mmseg's own, unmodified train.py, found in the installed package.

    mmseg-daft train CONFIG [--work-dir DIR] [--resume] [--cfg-options K=V ...]
    torchrun --nproc_per_node 2 -m mmseg_daft train CONFIG --launcher pytorch

All arguments but --check-work-dir are passed on to it. Several processes also work without a GPU.
"""

import argparse
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmseg_daft
from mmseg_daft.files import mend_last_checkpoint, refuse_unwritable
from mmseg_daft.launch.mmseg_script import NEEDED_TO_TRAIN, add_common_arguments, run_script

PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of mmseg's ``train.py``, and one more."""
    add_common_arguments(parser)
    parser.add_argument('--work-dir', help='for logs and checkpoints (default: work_dirs/CONFIG)')
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint in the work directory')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--check-work-dir', action='store_true', help='train nothing; fail if the work directory '
                        'holds the checkpoints of an earlier run and there is no --resume')


def run(args: argparse.Namespace) -> int:
    """Train, or only check the work directory.

    Raises:
        ConfigError: The config or an option is wrong.
        UnwritableError: Nothing can be written to the work directory.
        SystemExit: ``--check-work-dir``, the directory holds checkpoints, and there is no ``--resume``; or, with it,
            ``load_from`` cannot be read, or may be the run's past as well as its start; or ``--amp`` does not fit.
    """
    from mmseg_daft.engine.configs import checkpoint_hook, hook_of, read_config
    from mmseg_daft.engine.hooks.checkpoint_on_signal_hook import DEFAULT, SIGNALS, signals_of

    cfg = read_config(args.config, args.cfg_options, import_modules=False, needs=NEEDED_TO_TRAIN)
    work_dir = Path(args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}')
    if args.check_work_dir:
        # For slurm_requeue.sh, on a job's first start: a job that Slurm restarts has to resume, and would silently go
        # on with whatever run the directory holds.
        if (work_dir / 'last_checkpoint').exists() and not args.resume:
            raise SystemExit(f'{work_dir.absolute()} holds the checkpoints of an earlier run. Name another --work-dir, '
                             'or add --resume to go on with that run.')
        return 0
    refuse_unwritable(work_dir / 'last_checkpoint')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if args.amp and kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise SystemExit(f"--amp: mmseg's train.py does it for optim_wrapper.type='OptimWrapper' alone, and "
                         f"{args.config} has {kind}. Write type='AmpOptimWrapper', loss_scale='dynamic' there instead.")
    out_dir = (checkpoint_hook(cfg) or {}).get('out_dir')  # of one's own, that may be remote
    if args.resume and _first_rank() and not out_dir and (problem := mend_last_checkpoint(work_dir)):
        print(f'Resume: {problem}.', flush=True)
    words = _settled_words(args, cfg, work_dir) if args.resume and cfg.get('load_from') else args.words
    hook = hook_of(cfg, 'CheckpointOnSignalHook')
    if hook and SIGNALS.holds(names := hook.get('signals', DEFAULT)):  # else the hook refuses them itself
        # A signal that comes while this process starts waits for the hook, instead of ending the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals_of(names))
    unused = not cfg.get('model_wrapper_cfg') and cfg.get('find_unused_parameters', False)  # as MMEngine reads it
    return run_script('train.py', args.launcher, words, unused)


def _first_rank() -> bool:
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def _settled_words(args: argparse.Namespace, cfg: Mapping[str, Any], work_dir: Path) -> list[str]:
    """Return the command's words such that MMEngine resumes this run's own past, and nothing else, for any config."""
    mmseg_daft.register()  # first: torch reads MMEngine's checkpoints by one of its repairs
    from mmseg_daft.engine.checkpoints import settled_start

    name = cfg.get('experiment_name') or Path(args.config).stem
    try:
        load_from, resume, remark = settled_start(cfg['load_from'], work_dir, name)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if remark and _first_rank():
        print(remark, flush=True)
    if not resume:  # which argparse knows from --r on
        return [word for word in args.words if not (word.startswith('--r') and '--resume'.startswith(word))]
    return args.words if load_from else [*args.words, '--cfg-options', 'load_from=None']
