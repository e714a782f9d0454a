"""Whether a data set of the config is there: its folders, its number of images, every file of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image, UnidentifiedImageError

from mmseg_daft.doctor.config import environment_variables, type_name
from mmseg_daft.doctor.finding import Finding, Problem, Verdict, fail, ok, some, tracked, warn
from mmseg_daft.doctor.labels import label_findings, survey

# By the data set's type and split: how many images the released one has.
KNOWN = {
    'PascalVOCDataset': dict(train=1464, aug=9118, trainaug=10582, val=1449, trainval=2913),
    'CityscapesDataset': dict(train=2975, val=500)}
SAMPLE = 40
LAST_BYTES = {'.jpg': b'\xff\xd9', '.jpeg': b'\xff\xd9', '.png': b'IEND'}


def build_dataset(cfg: Config, loader: str) -> Any:
    """Build the data set of a loader.

    Raises:
        Problem: A folder or list that the config names is not there.
    """
    dataset = cfg[loader].dataset
    for leaf in leaf_cfgs(dataset):
        _refuse_missing_paths(leaf, environment_variables(cfg))
    return DATASETS.build(dataset)


def check_dataset(name: str, dataset: Any, full: bool, progress: Any = None) -> Iterator[Finding]:
    """Check each part of a data set: count, files, and labels of a sample, or of all with ``full``."""
    parts = leaves(dataset)
    for part in parts:
        what = _place(part) if len(parts) > 1 else ''
        missing, broken = _damaged_files(name, part, progress)
        problems = [*_count_findings(name, part), *_file_findings(name, missing, broken)]
        damaged = {*missing, *broken}
        usable = [i for i in range(len(part)) if not damaged or not damaged.intersection(_files(part, i))]
        spread = np.linspace(0, len(usable) - 1, len(usable) if full else min(SAMPLE, len(usable)))
        indices = [usable[i] for i in spread.round().astype(int)]
        labels = survey(part, tracked(progress, indices, f'{name}: reading files'), why_unreadable)
        problems += label_findings(name, labels, part, whole=len(indices) == len(usable), full=full)
        yield from (Finding(name, p.verdict, f'{what}: {p.found}' if what else p.found, p.fix) for p in problems)
        if not any(problem.verdict is Verdict.FAIL for problem in problems):
            known = ', all of them' if known_count(part) == len(part) else ''
            yield ok(name, f'{what or _place(part)}: {len(part)} images{known}; {len(indices)} read, '
                          f'labels {labels.values}, reduce_zero_label={part.reduce_zero_label}')


def leaves(dataset: Any) -> list[Any]:
    """Return the data sets inside ConcatDataset, RepeatDataset and the like."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    return [dataset] if inner == [None] else [leaf for part in inner for leaf in leaves(part)]


def leaf_cfgs(dataset: dict) -> list[dict]:
    """Return the configs of the data sets inside ConcatDataset, RepeatDataset and the like."""
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    return [dataset] if inner == [None] else [leaf for part in inner for leaf in leaf_cfgs(part)]


def known_count(dataset: Any) -> int | None:
    """Return how many images the released data set of this type and split has, if that is known."""
    splits = KNOWN.get(type(dataset).__name__, {})
    if type(dataset).__name__ == 'CityscapesDataset' and 'leftImg8bit' not in dataset.data_prefix['img_path']:
        return None  # its class serves other data sets with the same classes
    return splits.get(Path(dataset.ann_file).stem or Path(dataset.data_prefix['img_path']).name)


def why_unreadable(path: str) -> str | None:
    """Decode an image file to its end and say why that fails; ``None`` where it does not.

    OpenCV, which the pipeline reads with, fills the missing part of a truncated JPEG with grey.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        if not os.path.getsize(path):
            return 'empty'
        return 'not an image' if Path(path).suffix.lower() in LAST_BYTES else None  # others may be unknown to Pillow
    except Exception as error:
        return str(error)
    return None


def _refuse_missing_paths(leaf: dict, variables: Sequence[str]) -> None:
    if leaf.get('backend_args'):
        return  # not on a disk
    root = leaf.get('data_root') or ''
    fix = f'export {variables[0]}=/path/to/data, or set' if variables else 'Set'
    fix += ' data_root in the config; a relative one starts at the folder that you train from.'
    if root and not os.path.isdir(root):
        raise Problem(f'data_root {root} of {type_name(leaf)} does not exist.', fix)
    for key, path in (*(leaf.get('data_prefix') or {}).items(), ('ann_file', leaf.get('ann_file'))):
        if path and not os.path.exists(os.path.join(root, path)):
            raise Problem(f'{key} {os.path.join(root, path)} of {type_name(leaf)} does not exist.',
                          f'Unpack it there, or set {key} of the data set. If the root is another: {fix}')


def _place(dataset: Any) -> str:
    place = dataset.ann_file or dataset.data_prefix.get('img_path') or ''
    root = dataset.data_root or ''
    place = os.path.relpath(place, root) if root and place.startswith(root) else place
    return f'{type(dataset).__name__} {place}'.strip()


def _count_findings(name: str, dataset: Any) -> Iterator[Finding]:
    known = known_count(dataset)
    if known in (None, len(dataset)):
        return
    if dataset.ann_file:
        yield warn(name, f'{len(dataset)} images; the released split has {known}.',
                      f'Restore {os.path.basename(dataset.ann_file)} unless you mean a subset.')
    else:
        yield fail(name, f'{len(dataset)} images in {dataset.data_prefix["img_path"]}; the released split has {known}.',
                   'Unpack the archive again; a subset that you mean goes into an ann_file.')


def _files(dataset: Any, index: int) -> list[str]:
    info = dataset.get_data_info(index)
    return [path for path in (info['img_path'], info.get('seg_map_path')) if path]


def _damaged_files(name: str, dataset: Any, progress: Any) -> tuple[set[str], dict[str, str]]:
    """Return the files that are missing, and those that end too early, with the reason."""
    missing: set[str] = set()
    broken: dict[str, str] = {}
    for i in tracked(progress, range(0 if dataset.backend_args else len(dataset)), f'{name}: looking for files'):
        for path in _files(dataset, i):
            if not os.path.isfile(path):
                missing.add(path)
            elif _looks_cut(path) and (reason := why_unreadable(path)):
                broken[path] = reason
    return missing, broken


def _file_findings(name: str, missing: set[str], broken: dict[str, str]) -> Iterator[Finding]:
    if missing:
        yield fail(name, f'{len(missing)} files are missing: {some(sorted(missing))}.',
                   'Restore them, or check img_suffix, seg_map_suffix and data_prefix.')
    if broken:
        yield fail(name, f'{len(broken)} files cannot be read: '
                   f'{some([f"{path} ({reason})" for path, reason in broken.items()])}.',
                   'Copy or unpack them again, or take them out of the list.')


def _looks_cut(path: str) -> bool:
    """Whether a file is empty, or its last bytes are not those that its format ends with."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 32))
        return size == 0 or LAST_BYTES.get(Path(path).suffix.lower(), b'') not in file.read()
