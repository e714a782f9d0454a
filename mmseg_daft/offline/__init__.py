"""What needs a config's model and training data, but no training: ``mmseg-daft convert`` and ``domain-gap``."""

import argparse

from mmseg_daft.options import add_cfg_options, at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that both commands have."""
    parser.add_argument('--modules', nargs='+', help='submodules whose layers are meant (default: those of the '
                        "config's BNConversionHook, or the backbone)")
    parser.add_argument('--num-batches', type=at_least(1), metavar='N',
                        help="mini-batches of the pass (default: the hook's, or all)")
    parser.add_argument('--statistics', metavar='FILE', help='target statistics: written if not there, else used')
    parser.add_argument('--device', help='such as cuda:1 or cpu (default: a GPU, if there is one)')
    add_cfg_options(parser)
