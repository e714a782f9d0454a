"""Evaluate a checkpoint with mmseg's own, unmodified test.py, found in the installed package.

    mmseg-daft test CONFIG CHECKPOINT [--work-dir DIR] [--cfg-options K=V ...]
    torchrun --nproc_per_node 2 -m mmseg_daft test CONFIG CHECKPOINT \\
        --launcher pytorch

All arguments are passed on to it. Several processes also work without a GPU.
"""

import argparse
from pathlib import Path

import mmseg_daft
from mmseg_daft.files import refuse_unwritable
from mmseg_daft.launch.mmseg_script import add_common_arguments, run_script

PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of mmseg's ``test.py``."""
    add_common_arguments(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT')
    parser.add_argument('--work-dir', help='for the metrics, as JSON')
    parser.add_argument('--out', metavar='DIR', help='save the predicted label maps')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='save images with the predictions drawn on them')
    parser.add_argument('--wait-time', type=float, metavar='SECONDS', help='between two images of --show')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')


def run(args: argparse.Namespace) -> int:
    """Evaluate.

    Raises:
        ConfigError: The config or an option is wrong.
        UnwritableError: Nothing can be written to ``--work-dir`` or ``--out``.
        SystemExit: The checkpoint cannot be read.
    """
    from mmseg_daft.engine.configs import read_config

    read_config(args.config, args.cfg_options, import_modules=False,
                needs=['model', 'test_dataloader', 'test_evaluator', *['tta_model', 'tta_pipeline'] * args.tta])
    for folder in filter(None, (args.work_dir, args.out)):
        refuse_unwritable(Path(folder) / 'metrics.json')
    mmseg_daft.register()  # first: torch reads MMEngine's checkpoints by one of its repairs
    from mmseg_daft.engine.checkpoints import read_checkpoint

    try:
        read_checkpoint(args.checkpoint)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    return run_script('test.py', args.launcher, args.words)
