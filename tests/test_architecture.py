"""The one direction of imports, how much one has to open to read the method, and what public code owes its readers."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmseg_daft'
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)
SHARED = {'options', 'console', 'extras', 'files', 'run_output', 'version', 'configs_folder'}
"""Single modules at the top that need no framework: any room may import them."""
MAY_IMPORT = {
    'core': {'core'},
    'engine': {'core', 'engine'},
    'models': {'models'},
    'analysis': {'core', 'engine', 'analysis'},
    'offline': {'core', 'engine', 'analysis', 'offline'},
    'evaluation': {'core', 'engine', 'analysis', 'evaluation'},
    'launch': {'engine', 'launch'},
    'sweep': {'engine', 'launch', 'sweep'},
    'doctor': {'core', 'engine', 'models', 'doctor'},
}
FRAMEWORKS = {'mmengine', 'mmseg', 'mmcv', 'rich', 'torchvision', 'matplotlib', 'jinja2'}
BESIDE = {'core/ranks.py', 'core/stop_rule.py', 'core/variant.py', 'engine/statistics_file.py', 'engine/checkpoints.py',
          'engine/samples.py', 'core/arguments.py', 'core/compiled.py'}
"""What a reader of the hook may leave closed: ranks, early stop, ablations, files, wrappers, arguments, compilers."""


def imports(path):
    """Yield the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def module_path(name):
    """Return the file of one of our modules, None for anything else."""
    path = PACKAGE.parent / name.replace('.', '/')
    return next((p for p in (path.with_suffix('.py'), path / '__init__.py') if p.is_file()), None)


def reading(*starts):
    """Return the files that one opens to read some, imports followed; a package's __init__ says nothing new."""
    todo, seen = [PACKAGE / start for start in starts], set()
    while todo:
        path = todo.pop()
        if path in seen or path.name == '__init__.py' or str(path.relative_to(PACKAGE)) in BESIDE:
            continue
        seen.add(path)
        todo += filter(None, map(module_path, (name for name in imports(path) if name.startswith('mmseg_daft'))))
    return len(seen), sum(len(path.read_text().splitlines()) for path in seen)


def public(path):
    """Yield public functions and classes of a module, and public methods of its public classes."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith('_'))


def test_the_method_is_read_in_minutes():
    """Algorithm 1, Eq. 4 and 5, the two rates; then the hook with all that it calls."""
    files, lines = reading('core/conversion.py', 'core/parameter_groups.py')
    assert files <= 4 and lines <= 500
    files, lines = reading('engine/hooks/bn_conversion_hook.py')
    assert files <= 10 and lines <= 1200


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room in MAY_IMPORT:
        ours = {name.split('.')[1] for name in imports(path) if name.startswith('mmseg_daft.')}
        rooms = {name for name in ours if (PACKAGE / name).is_dir()}
        modules = {name for name in ours if (PACKAGE / f'{name}.py').is_file()}
        assert rooms <= MAY_IMPORT[room] and modules <= SHARED
    if room == 'core':
        assert not {name.split('.')[0] for name in imports(path)} & FRAMEWORKS
    if path.stem in ('options', 'extras', 'files', 'run_output', 'version') and path.parent == PACKAGE:
        others = {name.split('.')[0] for name in imports(path)} - {'mmseg_daft', *sys.stdlib_module_names}
        assert not others, 'jobs on a cluster carry it, and start without torch'
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)) and len(source.splitlines()) <= 400
    for node in public(path):
        assert ast.get_docstring(node), f'{node.name} has no docstring'
        if isinstance(node, ast.FunctionDef):
            arguments = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ('self', 'cls')]
            assert node.returns is not None and all(a.annotation for a in arguments), f'{node.name} is not typed'


def test_the_rooms_are_these():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ('__pycache__', '.mim')}
    assert rooms == set(MAY_IMPORT)
