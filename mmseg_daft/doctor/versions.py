"""Installed versions against the pairs known to break; needs nothing but the standard library."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mmseg_daft.doctor.finding import Finding, Verdict, fail, ok, warn

# Names that own the same folder in site-packages: of each line one can be installed.
RIVALS = (('mmcv', 'mmcv-lite', 'onedl-mmcv'), ('mmsegmentation', 'onedl-mmsegmentation'),
          ('mmengine', 'mmengine-lite', 'onedl-mmengine'))
PACKAGES = ('torch', 'torchvision', 'numpy', *(name for rivals in RIVALS for name in rivals), 'setuptools', 'ftfy',
            'regex')
# What of mmseg calls a compiled op of mmcv in training; FocalLoss does on GPUs alone.
NEEDS_OPS = ('PointHead', 'CCHead', 'PSAHead', 'SideAdapterCLIPHead', 'Mask2FormerHead', 'FocalLoss', 'DCN', 'DCNv2')
CHECK = 'versions'


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that matter here, as far as they are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def has_compiled_ops() -> bool:
    """Return whether the installed mmcv holds its compiled extension; mmcv is not imported."""
    spec = importlib.util.find_spec('mmcv')
    return any(any(Path(folder).glob('_ext*')) for folder in (spec and spec.submodule_search_locations) or ())


def check_versions(
    versions: Mapping[str, str], python: tuple[int, int], mmseg_bases: bool = False,
) -> Iterator[Finding]:
    """Compare versions with the pairs known to break.

    Args:
        versions: The installed ones by package name, as of :func:`installed_versions`.
        python: Of the interpreter.
        mmseg_bases: Whether the config's bases begin with ``mmseg::``.
    """
    problems = [*_missing(versions), *_rivals(versions), *_pairs(versions, python, mmseg_bases)]
    yield from problems
    if all(problem.verdict is Verdict.WARN for problem in problems):
        kept = [f'{name} {version}' for name, version in versions.items() if name not in ('ftfy', 'regex')]
        yield ok(CHECK, ', '.join([f'Python {python[0]}.{python[1]}', *kept]))


def check_ops(used: Collection[str], compiled: bool) -> Iterator[Finding]:
    """Say whether mmcv has compiled ops, and whether a model needs them.

    Args:
        used: The ``type`` of everything in the config's model.
        compiled: As of :func:`has_compiled_ops`.
    """
    needs = [name for name in NEEDS_OPS if name in used]
    if compiled:
        yield ok('mmcv ops', 'compiled')
    elif needs:
        yield fail('mmcv ops', f'mmcv has no compiled ops, and {", ".join(needs)} of this model calls one.',
                   "pip uninstall mmcv-lite; pip install 'mmcv>=2.1,<2.2' (may compile for a while), or another model.")
    else:
        yield ok('mmcv ops', 'not compiled; this model needs none '
                 f'({", ".join(NEEDS_OPS[:3])} and few others do)')


def _missing(versions: Mapping[str, str]) -> Iterator[Finding]:
    advice = {'mmcv': "pip install 'mmcv-lite>=2.1,<2.2'", 'mmengine': "pip install 'mmengine>=0.10.7'",
              'mmsegmentation': "pip install 'mmsegmentation>=1.2.2' ftfy regex"}
    for name in ('torch', 'torchvision'):
        if name not in versions:
            yield fail(CHECK, f'{name} is not installed.', 'pip install torch torchvision, both from one index')
    for names in RIVALS:
        if not any(name in versions for name in names):
            yield fail(CHECK, f'{names[0]} is not installed.', advice[names[0]])
    for name in ('ftfy', 'regex'):
        if 'mmsegmentation' in versions and name not in versions:
            yield fail(CHECK, f'{name} is not installed; mmsegmentation imports it without declaring it.',
                       f'pip install {name}')


def _rivals(versions: Mapping[str, str]) -> Iterator[Finding]:
    for names in RIVALS:
        both = [name for name in names if name in versions]
        if len(both) > 1:
            yield fail(CHECK, f"{' and '.join(both)} are both installed, into one folder: files of one replace the "
                       "other's.", f"pip uninstall {' '.join(both)}, then install the one you want")


def _pairs(versions: Mapping[str, str], python: tuple[int, int], mmseg_bases: bool) -> Iterator[Finding]:
    number = {name: _numbers(version) for name, version in versions.items()}
    torch, vision, mmseg = number.get('torch', ()), number.get('torchvision', ()), number.get('mmsegmentation', ())
    if () < mmseg < (1,):
        yield fail(CHECK, f'mmsegmentation {versions["mmsegmentation"]} is of the 0.x series, with other configs.',
                   "pip install 'mmsegmentation>=1.2.2'")
    for name in ('mmcv', 'mmcv-lite'):
        if (1,) <= mmseg < (1, 3) and not (2,) <= number.get(name, (2,)) < (2, 2):
            yield fail(CHECK, f'mmsegmentation {versions["mmsegmentation"]} refuses {name} {versions[name]}: it wants '
                       '2.0 or 2.1.', f"pip install '{name}>=2.1,<2.2'")
    if number.get('mmengine', (1,)) < (0, 10, 7):
        yield warn(CHECK, f'mmengine {versions["mmengine"]} is older than 0.10.7, the oldest that was tried here.',
                   "pip install 'mmengine>=0.10.7'")
    if number.get('numpy', ()) >= (2,) and () < torch < (2, 3):
        yield fail(CHECK, f'torch {versions["torch"]} was built for NumPy 1, and NumPy {versions["numpy"]} is '
                   'installed.', "pip install 'numpy<2'")
    if torch[:1] == (2,) and vision and vision[:2] != (0, torch[1] + 15):
        yield fail(CHECK, f'torchvision {versions["torchvision"]} is not of torch {versions["torch"]}, which goes with '
                   f'0.{torch[1] + 15}.', f"pip install 'torchvision==0.{torch[1] + 15}.*'")
    builds = {versions[name].partition('+')[2] for name in ('torch', 'torchvision') if name in versions}
    if len(builds) > 1:
        yield warn(CHECK, f'torch {versions["torch"]} and torchvision {versions["torchvision"]} are builds for '
                   'different devices.', 'pip install both from one index')
    if mmseg_bases and number.get('setuptools', (82,)) >= (82,):
        yield fail(CHECK, 'The config has a base mmseg::…, for which MMEngine wants pkg_resources; setuptools '
                   f'{versions.get("setuptools", "(not installed)")} lacks it.', "pip install 'setuptools<82'")
    if python >= (3, 14) and 'mmengine' in versions:
        yield fail(CHECK, f'MMEngine does not run on Python {python[0]}.{python[1]} (pkgutil.find_loader is gone).',
                   'Make an environment of Python 3.10 to 3.13.')


def _numbers(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers: (2, 11, 0) of '2.11.0+cpu'."""
    return tuple(map(int, re.match(r'\d+(?:\.\d+)*', version).group().split('.')))
