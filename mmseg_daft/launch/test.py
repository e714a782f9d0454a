"""Evaluate a checkpoint with mmseg's own, unmodified test.py, found in the installed package.

    mmseg-daft test CONFIG CHECKPOINT [--work-dir DIR] [--cfg-options K=V ...]
    torchrun --nproc_per_node 2 -m mmseg_daft test CONFIG CHECKPOINT \\
        --launcher pytorch

All arguments are passed on to it. Several processes also work without a GPU.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmseg_daft
from mmseg_daft.files import refuse_unwritable
from mmseg_daft.launch.mmseg_script import add_common_arguments, run_script
from mmseg_daft.options import at_least

PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of mmseg's ``test.py``."""
    add_common_arguments(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT')
    parser.add_argument('--work-dir', help='for the metrics, as JSON')
    parser.add_argument('--out', metavar='DIR', help='save the predicted label maps')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='save images with the predictions drawn on them: of every '
                        '50th mini-batch, or as default_hooks.visualization.interval says')
    parser.add_argument('--wait-time', type=at_least(0, kind=float), metavar='SECONDS',
                        help='how long --show shows an image; 0: until a key is pressed (default: 2)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')


def run(args: argparse.Namespace) -> int:
    """Evaluate.

    Raises:
        ConfigError: The config or an option is wrong.
        UnwritableError: Nothing can be written to ``--work-dir``, ``--out`` or ``--show-dir``.
        SystemExit: The checkpoint cannot be read, or nothing can be drawn.
    """
    from mmseg_daft.engine.configs import read_config

    cfg = read_config(args.config, args.cfg_options, import_modules=False,
                      needs=['model', 'test_dataloader', 'test_evaluator', *['tta_model', 'tta_pipeline'] * args.tta])
    if args.show or args.show_dir:
        _refuse_undrawable(args, cfg)
    for folder in filter(None, (args.work_dir, args.out, args.show_dir)):
        refuse_unwritable(Path(folder) / 'metrics.json')
    mmseg_daft.register()  # first: torch reads MMEngine's checkpoints by one of its repairs
    from mmseg_daft.engine.checkpoints import read_checkpoint

    try:
        read_checkpoint(args.checkpoint)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    return run_script('test.py', args.launcher, args.words)


def _refuse_undrawable(args: argparse.Namespace, cfg: Mapping[str, Any]) -> None:
    """Raise ``SystemExit`` where mmseg has nothing to draw with, or, for ``--show``, nowhere to show it."""
    from matplotlib import pyplot

    if not ((cfg.get('default_hooks') or {}).get('visualization') and cfg.get('visualizer')):
        raise SystemExit(f"{args.config} has nothing that draws, which --show and --show-dir need: set visualizer = "
                         "dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]) and "
                         "default_hooks = dict(visualization=dict(type='SegVisualizationHook')).")
    if args.show and pyplot.get_backend().lower() == 'agg':  # with --wait-time 0 it would wait for ever
        raise SystemExit('--show: there is no screen here to show images on. Save them by --show-dir DIR.')
