"""List the shipped configs, or copy one with all that it inherits from, so that it trains where it lies.

    mmseg-daft configs [list [WORD ...]]   # all, or those with all WORDs
    mmseg-daft configs copy CONFIG [DIR]           # to DIR, or to ./configs
    mmseg-daft train configs/daft/…                # the copy, yours to edit
"""

import argparse
import ast
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mmseg_daft.files import refuse_unwritable, shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both subcommands."""
    commands = parser.add_subparsers(metavar='list | copy')
    parser.set_defaults(act=list_configs, filters=[])
    listing = commands.add_parser('list', help='names, and a line about each')
    listing.add_argument('filters', metavar='WORD', nargs='*', help='a part of the name or of the line, in any case')
    listing.set_defaults(act=list_configs)
    copy = commands.add_parser('copy', help='copy one, and what it inherits from')
    copy.add_argument('config', metavar='CONFIG', help='as listed, or the file name alone')
    copy.add_argument('folder', metavar='DIR', nargs='?', type=Path, default=Path('configs'), help='default: configs')
    copy.set_defaults(act=copy_config)


def run(args: argparse.Namespace) -> int:
    """List or copy; say in a sentence why that cannot be."""
    try:
        args.act(args)
    except OSError as error:
        raise SystemExit(f'mmseg-daft configs: {error}. Install the package again.') from error
    return 0


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name: in a wheel beside the package's modules, or those of the checkout.

    Raises:
        FileNotFoundError: The installation has none.
    """
    package = Path(__file__).parents[1]
    root = shipped(package, 'configs')
    if root is None:
        raise FileNotFoundError(f'The installation at {package} holds no configs; install mmseg-daft again.')
    return {path.relative_to(root).as_posix(): path.resolve() for path in sorted(root.glob('[!_]*/*.py'))}


def list_configs(args: argparse.Namespace) -> None:
    """Print the configs with all the words in name or description, and a description of each.

    Raises:
        SystemExit: There are none.
    """
    configs, found = shipped_configs(), 0
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    for name, path in configs.items():
        first_line = path.read_text(encoding='utf-8').partition('\n')[0]
        about = first_line.lstrip('# ').removesuffix(' Both stages:')
        if all(word.lower() in f'{name} {about}'.lower() for word in args.filters):
            found += 1
            print(name, textwrap.fill(about, width, initial_indent='    ', subsequent_indent='    '), sep='\n')
    if not found:
        raise SystemExit(f'None of the {len(configs)} configs has {" and ".join(args.filters)} in its name or '
                         'description. Give fewer words.')
    print(f'\n{found} of {len(configs)} in {path.parents[1]}')


def copy_config(args: argparse.Namespace) -> None:
    """Copy a config and, transitively, its ``_base_``, at the same places below the folder.

    Raises:
        SystemExit: There is no such config, or a file that differs is there.
        UnwritableError: Nothing can be written there.
    """
    named = [path for name, path in shipped_configs().items() if args.config in (name, path.name, path.stem)]
    if not named:
        raise SystemExit(f'No shipped config is named {args.config}. `mmseg-daft configs list` shows their names.')
    chosen = named[0]
    target = {path: args.folder / path.relative_to(chosen.parents[1]) for path in _inherited(chosen)}
    edited = [str(copy) for path, copy in target.items() if copy.exists() and copy.read_bytes() != path.read_bytes()]
    if edited:
        raise SystemExit(f'These files are there and differ: {", ".join(edited)}. Name another DIR, or remove them.')
    refuse_unwritable(target[chosen])
    for path, copy in target.items():
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        print(copy)
    command = 'lpft LP_CONFIG' if chosen.name.startswith('lpft') else 'train'
    print(f'\nNow: mmseg-daft {command} {target[chosen]}')


def _inherited(path: Path) -> Iterator[Path]:
    """Yield a config and all that it inherits from."""
    yield path
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == '_base_':
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                yield from _inherited((path.parent / base).resolve())
