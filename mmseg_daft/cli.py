"""The command line, ``mmseg-daft`` or ``python -m mmseg_daft``.

Each command is a module with ``add_arguments(parser)`` and ``run(args) -> int``, its docstring the description. The
modules import what is heavy (torch, mmseg) in ``run``, so that ``--help`` is there at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from mmseg_daft.version import __version__

COMMANDS = {
    'doctor': ('mmseg_daft.doctor.command', 'check a config before GPU hours are spent on it'),
    'domain-gap': ('mmseg_daft.analysis.domain_gap', 'how far source and target lie apart, layer by layer'),
    'convert': ('mmseg_daft.offline.convert', 'convert a checkpoint to a target domain, without training'),
    'train': ('mmseg_daft.launch.train', "train: mmseg's own train.py"),
    'test': ('mmseg_daft.launch.test', "test: mmseg's own test.py"),
    'lpft': ('mmseg_daft.launch.lpft', 'LP-FT: train the head, then everything'),
    'sweep': ('mmseg_daft.sweep.command', "the paper's search for learning rates"),
    'analyze': ('mmseg_daft.analysis.command', "the paper's figures of finished runs, in one HTML file"),
    'configs': ('mmseg_daft.launch.configs', 'list the configs; copy one out'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        'mmseg-daft', description='Domain-Aware Fine-Tuning for MMSegmentation.',
        epilog='Each command has a --help of its own.')
    parser.add_argument('--version', action='version', version=f'mmseg-daft {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, (place, text) in COMMANDS.items():
        own = commands.add_parser(name, help=text, add_help=False)
        if argv[:1] == [name]:
            module = importlib.import_module(place)
            own = argparse.ArgumentParser(f'mmseg-daft {name}', description=module.__doc__,
                                          formatter_class=argparse.RawDescriptionHelpFormatter)
            module.add_arguments(own)
            return module.run(own.parse_args(argv[1:]))
    parser.parse_args(argv)
    return 2
