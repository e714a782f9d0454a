"""List the shipped configs, or copy one with all that it inherits from, so that it trains where it lies.

    mmseg-daft configs list [WORD ...]             # those with all WORDs
    mmseg-daft configs copy CONFIG [DIR]           # to DIR, or to ./configs
    mmseg-daft train configs/daft/…                # the copy, yours to edit
"""

from __future__ import annotations

import argparse
import ast
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both subcommands."""
    commands = parser.add_subparsers(metavar='list | copy', required=True)
    listing = commands.add_parser('list', help='names, and a line about each')
    listing.add_argument('filters', metavar='WORD', nargs='*', help='a part of the name or of the line, in any case')
    listing.set_defaults(act=list_configs)
    copy = commands.add_parser('copy', help='copy one, and what it inherits from')
    copy.add_argument('config', metavar='CONFIG', help='as listed, or the file name alone')
    copy.add_argument('folder', metavar='DIR', nargs='?', type=Path, default=Path('configs'), help='default: configs')
    copy.set_defaults(act=copy_config)


def run(args: argparse.Namespace) -> int:
    """List or copy."""
    args.act(args)
    return 0


def configs_root() -> Path:
    """Return the folder of the shipped configs: in a wheel beside the package's modules, or that of the checkout.

    Raises:
        FileNotFoundError: The installation has none.
    """
    package = Path(__file__).parents[1]
    for root in (package / '.mim' / 'configs', package.parent / 'configs'):
        if (root / 'daft').is_dir():
            return root.resolve()
    raise FileNotFoundError(f'The installation at {package} holds no configs; install mmseg-daft again.')


def list_configs(args: argparse.Namespace) -> None:
    """Print the configs with all the words in name or description, and a description of each.

    Raises:
        SystemExit: There are none.
    """
    root, about, words = configs_root(), {}, [word.lower() for word in args.filters]
    for path in _shipped(root):
        first_line = path.read_text(encoding='utf-8').partition('\n')[0]
        about[str(path.relative_to(root))] = first_line.lstrip('# ').removesuffix(' Both stages:')
    found = {name: text for name, text in about.items() if all(word in f'{name} {text}'.lower() for word in words)}
    if not found:
        raise SystemExit(f'None of the {len(about)} configs has {" and ".join(args.filters)} in its name or '
                         'description. Give fewer words.')
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    for name, text in found.items():
        print(name, textwrap.fill(text, width, initial_indent='    ', subsequent_indent='    '), sep='\n')
    print(f'\n{len(found)} of {len(about)} in {root}')


def copy_config(args: argparse.Namespace) -> None:
    """Copy a config and, transitively, its ``_base_``, at the same places below the folder.

    Raises:
        SystemExit: There is no such config, or a file that differs is there.
    """
    root = configs_root()
    chosen = [path for path in _shipped(root) if args.config in (path.name, path.stem, str(path.relative_to(root)))]
    if not chosen:
        raise SystemExit(f'No shipped config is named {args.config}. `mmseg-daft configs list` shows their names.')
    target = {path: args.folder / path.relative_to(root) for path in _inherited(chosen[0])}
    edited = [str(copy) for path, copy in target.items() if copy.exists() and copy.read_bytes() != path.read_bytes()]
    if edited:
        raise SystemExit(f'These files are there and differ: {", ".join(edited)}. Name another DIR, or remove them.')
    for path, copy in target.items():
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        print(copy)
    command = 'lpft LP_CONFIG' if chosen[0].name.startswith('lpft') else 'train'
    print(f'\nNow: mmseg-daft {command} {target[chosen[0]]}')


def _shipped(root: Path) -> list[Path]:
    return sorted(root.glob('[!_]*/*.py'))


def _inherited(path: Path) -> Iterator[Path]:
    """Yield a config and all that it inherits from."""
    yield path
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == '_base_':
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                yield from _inherited((path.parent / base).resolve())
