"""The command line, ``mmseg-daft`` or ``python -m mmseg_daft``.

Each command is a module with ``add_arguments(parser)`` and ``run(args) -> int``; its docstring is the description. What
is heavy (torch, mmseg) is imported in ``run``, so that ``--help`` is there at once. ``args.words`` holds the command's
words as they are; those that its parser does not know are an error, unless the module sets ``PASSES_ON``.
"""

import argparse
import importlib
import re
import sys
import textwrap
from collections.abc import Sequence

import mmseg_daft
from mmseg_daft.extras import installation, missing_module
from mmseg_daft.files import UnwritableError

COMMANDS = {
    'doctor': ('mmseg_daft.doctor.command', 'check a config before GPU hours are spent on it'),
    'domain-gap': ('mmseg_daft.offline.domain_gap', 'measure how far source and target lie apart, layer by layer'),
    'convert': ('mmseg_daft.offline.convert', 'convert a checkpoint to a target domain, without training'),
    'train': ('mmseg_daft.launch.train', "train, with mmseg's own train.py"),
    'test': ('mmseg_daft.launch.test', "evaluate a checkpoint, with mmseg's own test.py"),
    'lpft': ('mmseg_daft.launch.lpft', 'LP-FT: train the head, then the whole model'),
    'probe': ('mmseg_daft.offline.probe', "fit a classifier's head by logistic regression (LP)"),
    'sweep': ('mmseg_daft.sweep.command', "run the paper's search for learning rates"),
    'analyze': ('mmseg_daft.analysis.command', "draw the paper's figures of finished runs, in one HTML file"),
    'evaluate': ('mmseg_daft.evaluation.command', 'compare runs on unseen domains and corruptions, with intervals'),
    'interpolate': ('mmseg_daft.evaluation.interpolate', 'evaluate the models between a start and an end (WiSE-FT)'),
    'configs': ('mmseg_daft.launch.configs', 'list the shipped configs, or copy one'),
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fill a description's paragraphs to the terminal's width; indented ones, which are commands, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return '\n\n'.join(part if part.startswith(' ') else textwrap.fill(part, width, break_on_hyphens=False)
                           for part in re.split(r'\n\n+', text.rstrip()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    if argv is None:
        # Workers that are spawned import first what __main__ names: let it be this package, which registers then.
        sys.modules['__main__'].__spec__ = mmseg_daft.__spec__
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in COMMANDS:
        return _run(words[0], words[1:])
    parser = argparse.ArgumentParser(
        'mmseg-daft', description='Domain-Aware Fine-Tuning for MMSegmentation.',
        epilog='mmseg-daft COMMAND --help says more about each.')
    parser.add_argument('--version', action='version', version=f'mmseg-daft {mmseg_daft.__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text)
    parser.parse_args(words)
    parser.error('the first word has to be a COMMAND')


def _run(name: str, words: list[str]) -> int:
    module = importlib.import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(f'mmseg-daft {name}', description=module.__doc__, formatter_class=_HelpFormatter)
    module.add_arguments(parser)
    args, unknown = parser.parse_known_args(words)
    args.words = words
    if unknown and not getattr(module, 'PASSES_ON', False):
        parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    try:
        return module.run(args)
    except ImportError as error:
        missing = missing_module(error)
        if not (fix := installation(missing)):
            raise
        raise SystemExit(f'mmseg-daft {name} needs {missing}, which is not installed{fix}') from error
    except KeyboardInterrupt:
        raise SystemExit(f'mmseg-daft {name}: interrupted.') from None
    except ValueError as error:
        # ConfigError by name: its module imports MMEngine.
        if type(error).__name__ != 'ConfigError' and not isinstance(error, UnwritableError):
            raise
        raise SystemExit(str(error)) from error
