"""LP-FT in one command: linear probing, then fine-tuning from its head.

    mmseg-daft lpft LP_CONFIG LPFT_CONFIG [--work-dir DIR] [--gpus N]

Started again, it goes on where it was: both stages are runs of mmseg's own train.py with --resume, so a finished one is
not repeated, and one that broke off is resumed from its last checkpoint. With --work-dir they go to DIR/lp and
DIR/lpft, otherwise to work_dirs/CONFIG.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from mmseg_daft.files import tool
from mmseg_daft.run_output import final_checkpoint, final_metrics

OF_THE_LAUNCH = {'work_dir', 'resume', 'launcher', 'model_wrapper_cfg'}  # not of the experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('lp', metavar='LP_CONFIG', type=Path, help='the first stage, such as configs/lp/…')
    parser.add_argument('lpft', metavar='LPFT_CONFIG', type=Path, help='the second stage, such as configs/lpft/…')
    parser.add_argument('--work-dir', metavar='DIR', type=Path, help='holds both runs, in lp and lpft')
    parser.add_argument('--gpus', metavar='N', type=int, default=1,
                        help='processes on this machine (torchrun), also without a GPU')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='for both stages')


def run(args: argparse.Namespace) -> int:
    """Run both stages.

    Raises:
        ConfigError: A config or an option is wrong.
        SystemExit: A stage failed, with its exit status; or the command cannot go on, in a sentence.
    """
    from mmseg_daft.engine.configs import read_config

    read_config(args.lp, args.cfg_options, import_modules=False)  # both are read before one is trained
    iterations = read_config(args.lpft, args.cfg_options, import_modules=False).train_cfg.max_iters
    first, second = (args.work_dir / stage if args.work_dir else Path('work_dirs') / config.stem
                     for stage, config in (('lp', args.lp), ('lpft', args.lpft)))
    if re.search(r'[\s,"\'\[\]()]', str(first)):
        raise SystemExit(f'{first}: the second stage gets this path as an option, which MMEngine would take apart at '
                         'spaces, commas, quotes and brackets. Name a --work-dir without them.')
    head = _run_stage('LP, stage 1 of 2', args.lp, first, args.gpus, args.cfg_options)
    finished = final_checkpoint(second, iterations)
    if finished and finished.stat().st_mtime < head.stat().st_mtime:
        raise SystemExit(f'{finished} is older than {head}, so it began from another head. Remove {second}.')
    start = ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={head}']
    done = _run_stage('LP-FT, stage 2 of 2', args.lpft, second, args.gpus, [*args.cfg_options, *start])
    print(f'LP-FT: {done}')
    if final_metrics(second, iterations, 'mIoU') is None:
        print(f'Its final validation is missing: mmseg-daft test {args.lpft} {done}')
    return 0


def _run_stage(title: str, config: Path, work_dir: Path, gpus: int, options: list[str]) -> Path:
    """Train a stage to its end, unless it is there already, and return its final checkpoint.

    What MMEngine left beside a finished run tells whether it is one of this config.
    """
    from mmseg_daft.engine.configs import read_config

    cfg = read_config(config, options, import_modules=False)
    iterations = cfg.train_cfg.max_iters
    done = final_checkpoint(work_dir, iterations)
    if done:
        before, now = read_config(work_dir / config.name, import_modules=False).to_dict(), cfg.to_dict()
        differs = sorted(key for key in {*before, *now} - OF_THE_LAUNCH if before.get(key) != now.get(key))
        if differs:
            raise SystemExit(f'{work_dir} holds a finished run of another config: it differs in {", ".join(differs)}. '
                             'Name another --work-dir, or remove this one to train again.')
        print(f'{title}: finished before ({done})', flush=True)
        return done
    command = [sys.executable]
    if gpus > 1:
        command += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(gpus)]
    command += [tool('train.py'), str(config), '--resume', '--work-dir', str(work_dir),
                '--launcher', 'pytorch' if gpus > 1 else 'none', *(['--cfg-options', *options] if options else [])]
    print(f'{title}: {shlex.join(command)}', flush=True)
    status = subprocess.run(command).returncode
    done = final_checkpoint(work_dir, iterations)
    if status or not done:
        problem = f'failed with exit status {status}' if status else f'ended without iter_{iterations}.pth'
        print(f'{title} {problem}; mend it and start this command again to go on from here.', file=sys.stderr)
        raise SystemExit(status or 1)
    return done
