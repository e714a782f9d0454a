"""LP-FT in one command: linear probing, then fine-tuning from its head.

    mmseg-daft lpft LP_CONFIG LPFT_CONFIG [--work-dir DIR] [--gpus N]

Started again, it goes on where it was: both stages are runs of mmseg's own train.py, a finished one is not repeated,
and one that broke off is resumed from its last checkpoint. With --work-dir they go to DIR/lp and DIR/lpft, otherwise to
work_dirs/CONFIG.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import mmseg_daft
from mmseg_daft.files import noted_checkpoint, refuse_unwritable, tool
from mmseg_daft.launch.mmseg_script import NEEDED_TO_TRAIN
from mmseg_daft.options import at_least
from mmseg_daft.run_output import records

OF_THE_LAUNCH = {'work_dir', 'resume', 'launcher', 'model_wrapper_cfg'}  # not of the experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('lp', metavar='LP_CONFIG', type=Path, help='the first stage, such as configs/lp/…')
    parser.add_argument('lpft', metavar='LPFT_CONFIG', type=Path, help='the second stage, such as configs/lpft/…')
    parser.add_argument('--work-dir', metavar='DIR', type=Path, help='holds both runs, in lp and lpft')
    parser.add_argument('--gpus', metavar='N', type=at_least(1), default=1,
                        help='processes on this machine (torchrun), also without a GPU')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='for both stages')


def run(args: argparse.Namespace) -> int:
    """Run both stages.

    Raises:
        ConfigError: A config or an option is wrong.
        SystemExit: A stage failed, with its exit status; or the command cannot go on, in a sentence.
    """
    mmseg_daft.register()  # first: torch reads MMEngine's checkpoints by one of its repairs
    first, second = (args.work_dir / stage if args.work_dir else Path('work_dirs') / config.stem
                     for stage, config in (('lp', args.lp), ('lpft', args.lpft)))
    for config, work_dir in ((args.lp, first), (args.lpft, second)):  # both are looked at before one is trained
        check_stage(config, args.cfg_options, work_dir)
    if first == second:
        raise SystemExit(f'Both stages would be trained in {first}. Name a --work-dir, which has a folder for each.')
    head = _run_stage('LP, stage 1 of 2', args.lp, first, args.gpus, args.cfg_options)
    # What the config would load on top of it is the start of the first stage.
    start = ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={head}', 'load_from=None']
    options = [*args.cfg_options, *start]
    finished = _final_checkpoint(args.lpft, options, second)
    if finished and finished.stat().st_mtime < head.stat().st_mtime:
        raise SystemExit(f'{finished} is older than {head}, so it began from another head. Remove {second}.')
    done = _run_stage('LP-FT, stage 2 of 2', args.lpft, second, args.gpus, options)
    print(f'LP-FT: {done}')
    logged = [record for record in records(second) if 'data_time' in record]
    if not logged or 'loss' in logged[-1]:  # a validation has none
        print(f'Its final validation is missing: mmseg-daft test {args.lpft} {done}')
    return 0


def check_stage(config: Path, options: list[str], work_dir: Path) -> None:
    """Refuse a stage that would not leave a final model, or would leave it at a place that no option can name.

    Raises:
        ConfigError: The config or an option is wrong.
        UnwritableError: Nothing can be written to the work directory.
        SystemExit: The final model would be missing, or at such a place.
    """
    from mmseg_daft.engine.configs import checkpoint_hook, length_of, read_config, unsaved_end

    cfg = read_config(config, options, import_modules=False, needs=NEEDED_TO_TRAIN)
    length = length_of(cfg)[1]
    if not isinstance(length, int) or length < 1:
        raise SystemExit(f'{config}: its train_cfg does not say how long it trains. Give it max_iters or max_epochs.')
    if problem := unsaved_end(cfg):
        raise SystemExit(f'{config}: {problem}')
    for place in (work_dir, checkpoint_hook(cfg).get('out_dir') or ''):
        if re.search(r'[\s,"\'\[\]()]', str(place)):
            raise SystemExit(f'{place}: the second stage gets this path as an option, which MMEngine would take apart '
                             'at spaces, commas, quotes and brackets. Name a --work-dir, or an out_dir of '
                             'CheckpointHook, without them.')
    refuse_unwritable(work_dir / 'last_checkpoint')


def _final_checkpoint(config: Path, options: list[str], work_dir: Path) -> Path | None:
    """Return a stage's last checkpoint, wherever it is and whatever its name, if that is of the training's end."""
    from mmseg_daft.engine.checkpoints import read_checkpoint
    from mmseg_daft.engine.configs import length_of, read_config

    path = noted_checkpoint(work_dir)
    if path is None:
        return None
    try:
        _, content = read_checkpoint(str(path))
    except ValueError:  # half-written
        return None
    unit, length = length_of(read_config(config, options, import_modules=False))
    return path if content.get('meta', {}).get(unit) == length else None


def _run_stage(title: str, config: Path, work_dir: Path, gpus: int, options: list[str]) -> Path:
    """Train a stage to its end, unless it is there already, and return its final checkpoint.

    What MMEngine left beside a finished run tells whether it is one of this config.
    """
    from mmseg_daft.engine.configs import read_config

    done = _final_checkpoint(config, options, work_dir)
    if done:
        before, now = (read_config(*which, import_modules=False).to_dict()
                       for which in ((work_dir / config.name,), (config, options)))
        # The start is what the first launch says: a resumed one has none.
        launches = sorted(work_dir.glob('*/vis_data/config.py'))
        if launches:
            before['load_from'] = read_config(launches[0], import_modules=False).get('load_from')
        differs = sorted(key for key in {*before, *now} - OF_THE_LAUNCH if before.get(key) != now.get(key))
        if differs:
            raise SystemExit(f'{work_dir} holds a finished run of another config: it differs in {", ".join(differs)}. '
                             'Name another --work-dir, or remove this one to train again.')
        print(f'{title}: finished before ({done})', flush=True)
        return done
    command = [sys.executable]
    if gpus > 1:
        command += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(gpus)]
    goes_on = ['--resume'] * (work_dir / 'last_checkpoint').is_file()
    command += [tool('train.py'), str(config), *goes_on, '--work-dir', str(work_dir),
                '--launcher', 'pytorch' if gpus > 1 else 'none', *(['--cfg-options', *options] if options else [])]
    print(f'{title}: {shlex.join(command)}', flush=True)
    status = subprocess.run(command).returncode
    done = _final_checkpoint(config, options, work_dir)
    if status or not done:
        problem = f'failed with exit status {status}' if status else 'ended without a checkpoint of its end'
        print(f'{title} {problem}; mend it and start this command again to go on from here.', file=sys.stderr)
        raise SystemExit(status or 1)
    return done
