"""LP-FT in one command: linear probing, then fine-tuning from its head; started again, it goes on where it was.

    python tools/lpft.py LP_CONFIG LPFT_CONFIG [--work-dir DIR] [--gpus N] [--cfg-options KEY=VALUE ...]

Both stages are runs of mmseg's own tools/train.py with --resume: a finished one is not repeated, a broken off one is
resumed from its last checkpoint. With --work-dir they go to DIR/lp and DIR/lpft, otherwise to work_dirs/CONFIG.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

from mmseg_daft.engine.configs import merge_options
from mmseg_daft.run_output import final_checkpoint, final_metrics

ROOT = Path(__file__).resolve().parent
OF_THE_LAUNCH = {'work_dir', 'resume', 'launcher', 'model_wrapper_cfg'}  # not of the experiment


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('lp', metavar='LP_CONFIG', type=Path, help='the first stage, such as configs/lp/…')
    parser.add_argument('lpft', metavar='LPFT_CONFIG', type=Path, help='the second stage, such as configs/lpft/…')
    parser.add_argument('--work-dir', type=Path, help='holds both runs, in lp and lpft')
    parser.add_argument('--gpus', type=int, default=1, help='processes on this machine (torchrun), also without a GPU')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='for both stages')
    return parser.parse_args()


def read_config(config: Path, options: list[str]) -> Config:
    """Return a stage's config with the command's options."""
    cfg = Config.fromfile(config, import_custom_modules=False)
    merge_options(cfg, options)
    return cfg


def refuse_another_run(cfg: Config, dumped: Path) -> None:
    """Check that a finished run is the one that would be run now, by the config that MMEngine left beside it.

    Raises:
        SystemExit: It is another; the message names the keys that differ.
    """
    before, now = (c.to_dict() for c in (Config.fromfile(dumped, import_custom_modules=False), cfg))
    differs = sorted(key for key in {*before, *now} - OF_THE_LAUNCH if before.get(key) != now.get(key))
    if differs:
        raise SystemExit(f'{dumped.parent} holds a finished run of another config: it differs in {", ".join(differs)}. '
                         'Name another --work-dir, or remove this one to train anew.')


def run_stage(title: str, config: Path, work_dir: Path, gpus: int, options: list[str]) -> Path:
    """Train a stage to its end, unless it is there already, and return its final checkpoint.

    Raises:
        SystemExit: The stage failed, with its exit status; or what is there is another run.
    """
    cfg = read_config(config, options)
    iterations = int(cfg.train_cfg.max_iters)
    done = final_checkpoint(work_dir, iterations)
    if done:
        refuse_another_run(cfg, work_dir / config.name)
        print(f'{title}: finished before ({done})', flush=True)
        return done
    command = [sys.executable]
    if gpus > 1:
        command += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(gpus)]
    command += [str(ROOT / 'train.py'), str(config), '--resume', '--work-dir', str(work_dir)]
    command += ['--launcher', 'pytorch'] if gpus > 1 else []
    command += ['--cfg-options', *options] if options else []
    print(f'{title}: {shlex.join(command)}', flush=True)
    status = subprocess.run(command).returncode
    done = final_checkpoint(work_dir, iterations)
    if status or not done:
        problem = f'failed with exit status {status}' if status else f'ended without iter_{iterations}.pth'
        print(f'{title} {problem}; mend it and start this command again to go on from here.', file=sys.stderr)
        raise SystemExit(status or 1)
    return done


def main() -> None:
    """Run both stages."""
    args = parse_args()
    for config in (args.lp, args.lpft):
        if not config.is_file():
            raise SystemExit(f'There is no config {config}.')
    places = [(args.work_dir / stage if args.work_dir else Path('work_dirs') / config.stem)
              for stage, config in (('lp', args.lp), ('lpft', args.lpft))]
    if re.search(r'[\s,"\'\[\]()]', str(places[0])):
        raise SystemExit(f'{places[0]}: the second stage gets this path as an option, which MMEngine would take apart '
                         'at spaces, commas, quotes and brackets. Name a --work-dir without.')
    head = run_stage('LP, stage 1 of 2', args.lp, places[0], args.gpus, args.cfg_options)
    finished = final_checkpoint(places[1], int(read_config(args.lpft, args.cfg_options).train_cfg.max_iters))
    if finished and finished.stat().st_mtime < head.stat().st_mtime:
        raise SystemExit(f'{finished} is older than {head}, so it began from another head. Remove {places[1]}.')
    start = ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={head}']
    done = run_stage('LP-FT, stage 2 of 2', args.lpft, places[1], args.gpus, [*args.cfg_options, *start])
    print(f'LP-FT: {done}')
    if final_metrics(places[1], int(done.stem.removeprefix('iter_')), 'mIoU') is None:
        print(f'Its final validation is missing: python tools/test.py {args.lpft} {done}')


if __name__ == '__main__':
    main()
