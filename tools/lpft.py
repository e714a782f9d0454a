"""LP-FT in one command: linear probing, then fine-tuning from its head; started again, it goes on where it was.

    python tools/lpft.py LP_CONFIG LPFT_CONFIG [--work-dir DIR] [--gpus N] [--cfg-options KEY=VALUE ...]

Both stages are runs of mmseg's own tools/train.py with --resume: a finished one is not repeated, a broken off one is
resumed from its last checkpoint. With --work-dir they go to DIR/lp and DIR/lpft, otherwise to work_dirs/CONFIG.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

ROOT = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('lp', metavar='LP_CONFIG', type=Path, help='the first stage, such as configs/lp/…')
    parser.add_argument('lpft', metavar='LPFT_CONFIG', type=Path, help='the second stage, such as configs/lpft/…')
    parser.add_argument('--work-dir', type=Path, help='holds both runs, in lp and lpft')
    parser.add_argument('--gpus', type=int, default=1, help='processes on this machine (torchrun), also without a GPU')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for both stages')
    return parser.parse_args()


def max_iters(config: Path, options: list[str]) -> int:
    """Return how many iterations a stage trains, by its config and the command's options."""
    cfg = Config.fromfile(config, import_custom_modules=False)
    reader = argparse.ArgumentParser()
    reader.add_argument('--options', nargs='*', action=DictAction, default={})
    cfg.merge_from_dict(reader.parse_args(['--options', *options]).options)
    return int(cfg.train_cfg.max_iters)


def final_checkpoint(work_dir: Path, iterations: int) -> Path | None:
    """Return a finished run's final checkpoint, or None: MMEngine names the last one once it is written."""
    path, note = work_dir / f'iter_{iterations}.pth', work_dir / 'last_checkpoint'
    finished = path.is_file() and note.is_file() and Path(note.read_text().strip()).name == path.name
    return path if finished else None


def run_stage(title: str, config: Path, work_dir: Path, gpus: int, options: list[str]) -> Path:
    """Train a stage to its end, unless it is there already, and return its final checkpoint.

    Raises:
        SystemExit: The stage failed; with its exit status.
    """
    iterations = max_iters(config, options)
    done = final_checkpoint(work_dir, iterations)
    if done:
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
    head = run_stage('LP, stage 1 of 2', args.lp, places[0], args.gpus, args.cfg_options)
    start = ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={head}']
    done = run_stage('LP-FT, stage 2 of 2', args.lpft, places[1], args.gpus, [*args.cfg_options, *start])
    print(f'LP-FT: {done}')


if __name__ == '__main__':
    main()
