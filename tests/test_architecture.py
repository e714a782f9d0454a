"""The one direction of imports, and what public code owes its readers."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmseg_daft'
MODULES = sorted(PACKAGE.rglob('*.py'))
MAY_IMPORT = {
    'models': {'models'},
    'core': {'core'},
    'compat': {'compat'},
    'datasets': {'datasets'},
    'engine': {'core', 'engine'},
    'analysis': {'core', 'analysis'},
    'sweep': {'sweep'},
}
FRAMEWORKS = {'mmengine', 'mmseg', 'mmcv', 'rich', 'torchvision', 'matplotlib', 'jinja2'}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield node.module


def public(path):
    """Yield public functions and classes of a module, and public methods of its public classes."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith('_'))


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room in MAY_IMPORT:
        rooms = {name.split('.')[1] for name in imports(path) if name.startswith('mmseg_daft.')}
        assert rooms <= MAY_IMPORT[room]
    if room == 'sweep':  # jobs carry it to the cluster: the standard library, and matplotlib where curves are drawn
        others = {name.split('.')[0] for name in imports(path)} - {'mmseg_daft', *sys.stdlib_module_names}
        assert others <= {'matplotlib'} if path.stem == 'curves' else others <= {'submitit'}
    if room == 'core':
        assert not {name.split('.')[0] for name in imports(path)} & FRAMEWORKS
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)) and len(source.splitlines()) <= 250
    for node in public(path):
        assert ast.get_docstring(node), f'{node.name} has no docstring'
        if isinstance(node, ast.FunctionDef):
            arguments = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ('self', 'cls')]
            assert node.returns is not None and all(a.annotation for a in arguments), f'{node.name} is not typed'


def test_the_rooms_are_these():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != '__pycache__'}
    assert rooms == set(MAY_IMPORT)
