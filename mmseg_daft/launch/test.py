"""mmseg's own test.py: mmseg-daft test CONFIG [its arguments]"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take mmseg's own arguments."""
    parser.add_argument('words', nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    import sys

    import mmseg_daft
    mmseg_daft.register()
    from mmseg_daft.launch.mmseg_script import run as run_script

    sys.argv = ['test.py', *args.words]
    run_script('test.py')
    return 0
