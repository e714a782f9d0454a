"""mmseg's own train.py: mmseg-daft train CONFIG [its arguments]"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take mmseg's own arguments."""
    parser.add_argument('words', nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    import signal
    import sys

    # A signal that comes while this process starts waits for CheckpointOnSignalHook, instead of ending the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    import mmseg_daft
    mmseg_daft.register()
    from mmseg_daft.launch.mmseg_script import run as run_script

    sys.argv = ['train.py', *args.words]
    run_script('train.py')
    return 0
