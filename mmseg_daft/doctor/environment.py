"""Installed packages: versions that are known not to go together, the import itself, mmcv's compiled ops.

The check of versions needs nothing but the standard library, so that it can say what is missing.
"""

import gc
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from mmseg_daft.doctor.finding import Finding, Problem, Verdict, describe, fail, ok, warn

# Packages that install into the same folder: one of each line can be installed.
RIVALS = (('mmcv', 'mmcv-lite', 'onedl-mmcv'), ('mmsegmentation', 'onedl-mmsegmentation'),
          ('mmengine', 'mmengine-lite', 'onedl-mmengine'))
PACKAGES = ('torch', 'torchvision', 'numpy', *(name for rivals in RIVALS for name in rivals), 'mmpretrain',
            'setuptools', 'ftfy', 'regex')
INSTALL = {'mmcv': "pip install 'mmcv-lite>=2.1,<2.2'", 'mmengine': "pip install 'mmengine>=0.10.7'",
           'mmsegmentation': "pip install 'mmsegmentation>=1.2.2' ftfy regex"}
# The parts of mmseg that call a compiled op of mmcv in training; FocalLoss does so only on GPUs.
NEEDS_OPS = ('PointHead', 'CCHead', 'PSAHead', 'SideAdapterCLIPHead', 'Mask2FormerHead', 'FocalLoss', 'DCN', 'DCNv2')


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that matter here and are installed."""
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def check_versions(versions: Mapping[str, str], python: tuple[int, int], mmseg_bases: bool) -> Iterator[Finding]:
    """Compare installed versions, by package name, with the combinations that are known to break.

    ``mmseg_bases`` says whether a base of the config begins with ``mmseg::``.
    """
    problems = list(_version_problems(versions, python, mmseg_bases))
    yield from problems
    if all(problem.verdict is Verdict.WARN for problem in problems):
        shown = [f'{name} {version}' for name, version in versions.items() if name not in ('ftfy', 'regex')]
        yield ok(', '.join([f'Python {python[0]}.{python[1]}', *shown]))


def import_packages() -> None:
    """Import what the run and the other checks need, with this package's repairs of it.

    Raises:
        Problem: Something cannot be imported.
    """
    gc.disable()  # imports make many objects and no garbage
    try:
        importlib.import_module('mmseg_daft').register()
        for name in ('data', 'training', 'weights'):
            importlib.import_module(f'mmseg_daft.doctor.{name}')
    except Exception as error:
        raise Problem(f'mmseg_daft and mmseg cannot be imported. {describe(error)}', 'Install what is named here or '
                      'above. The extra [lite] of mmseg-daft brings all of mmseg, with mmcv-lite.') from error
    finally:
        gc.freeze()  # MMEngine collects garbage once per data set: not among the objects of all libraries
        gc.enable()


def has_compiled_ops() -> bool:
    """Return whether mmcv has its compiled extension, and not the stand-in for it."""
    return (spec := importlib.util.find_spec('mmcv._ext')) is not None and spec.loader is not None


def check_ops(used: Collection[str], compiled: bool) -> Iterator[Finding]:
    """Say whether mmcv has compiled ops, and whether one of the types used in the model needs them."""
    needs = [name for name in NEEDS_OPS if name in used]
    if compiled:
        yield ok('compiled')
    elif needs:
        yield fail(f'mmcv has no compiled ops, and {", ".join(needs)} of this model calls one.',
                   "pip uninstall mmcv-lite; pip install 'mmcv>=2.1,<2.2' (may compile for a while), or another model.")
    else:
        yield ok(f'not compiled; this model needs none ({", ".join(NEEDS_OPS[:3])} and few others do)')


def _version_problems(versions: Mapping[str, str], python: tuple[int, int], mmseg_bases: bool) -> Iterator[Finding]:
    for name in ('torch', 'torchvision'):
        if name not in versions:
            yield fail(f'{name} is not installed.', 'pip install torch torchvision, both from one index')
    for rivals in RIVALS:
        there = [name for name in rivals if name in versions]
        if not there:
            yield fail(f'{rivals[0]} is not installed.', INSTALL[rivals[0]])
        if len(there) > 1:
            yield fail(f"{' and '.join(there)} are both installed, into one folder: files of one replace the other's.",
                       f"pip uninstall {' '.join(there)}, then install the one you want")
    for name in ('ftfy', 'regex'):
        if 'mmsegmentation' in versions and name not in versions:
            yield fail(f'{name} is not installed; mmsegmentation imports it without declaring it.',
                       f'pip install {name}')
    # '2.11.0+cpu' is (2, 11, 0)
    number = {name: tuple(map(int, re.match(r'[\d.]*\d', text).group().split('.'))) for name, text in versions.items()}
    torch, vision, mmseg = number.get('torch', ()), number.get('torchvision', ()), number.get('mmsegmentation', ())
    if () < mmseg < (1,):
        yield fail(f'mmsegmentation {versions["mmsegmentation"]} is of the 0.x series, whose configs differ.',
                   "pip install 'mmsegmentation>=1.2.2'")
    for name in ('mmcv', 'mmcv-lite'):
        if (1,) <= mmseg < (1, 3) and not (2,) <= number.get(name, (2,)) < (2, 2):
            yield fail(f'mmsegmentation {versions["mmsegmentation"]} refuses {name} {versions[name]}: it needs 2.0 '
                       'or 2.1.', f"pip install '{name}>=2.1,<2.2'")
    if number.get('mmengine', (1,)) < (0, 10, 7):
        yield warn(f'mmengine {versions["mmengine"]} is older than 0.10.7, the oldest version that was tried here.',
                   INSTALL['mmengine'])
    if number.get('numpy', ()) >= (2,) and () < torch < (2, 3):
        yield fail(f'torch {versions["torch"]} was built for NumPy 1, and NumPy {versions["numpy"]} is installed.',
                   "pip install 'numpy<2'")
    later = torch >= (2, 14) and vision >= (0, 29)  # which takes any later torch, too
    if torch[:1] == (2,) and vision and vision[:2] != (0, torch[1] + 15) and not later:
        yield fail(f'torchvision {versions["torchvision"]} does not belong to torch {versions["torch"]}, which needs '
                   f'0.{torch[1] + 15}.', f"pip install 'torchvision==0.{torch[1] + 15}.*'")
    builds = {versions[name].partition('+')[2] for name in ('torch', 'torchvision') if name in versions}
    if len(builds) > 1:
        yield warn(f'torch {versions["torch"]} and torchvision {versions["torchvision"]} are builds for different '
                   'devices.', 'pip install both from one index')
    if mmseg_bases and number.get('setuptools', (82,)) >= (82,):
        yield fail('The config has a base mmseg::…, for which MMEngine needs pkg_resources; setuptools '
                   f'{versions.get("setuptools", "(not installed)")} lacks it.', "pip install 'setuptools<82'")
    if python >= (3, 14) and 'mmengine' in versions:
        yield fail(f'MMEngine does not run on Python {python[0]}.{python[1]} (pkgutil.find_loader is gone).',
                   'Make an environment of Python 3.10 to 3.13.')
