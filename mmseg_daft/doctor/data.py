"""Whether a data set is there and whole, and whether its labels fit its classes."""

import copy
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.registry import DATASETS
from PIL import Image, UnidentifiedImageError

from mmseg_daft.doctor.finding import Finding, Problem, Verdict, describe, fail, ok, some, warn
from mmseg_daft.engine.configs import ignored_labels, type_name
from mmseg_daft.engine.training_data import leaf_datasets

# How many images the released data sets have, by type and split.
KNOWN = {
    'PascalVOCDataset': dict(train=1464, aug=9118, trainaug=10582, val=1449, trainval=2913),
    'CityscapesDataset': dict(train=2975, val=500)}
SAMPLE = 40
LAST_BYTES = {'.jpg': b'\xff\xd9', '.jpeg': b'\xff\xd9', '.png': b'IEND'}
RESTORE = 'Copy or unpack them again, or take them out of the list.'


def check_data(
    cfg: Config, loader: str, full: bool, track: Callable[[Sequence[int], str], Iterable[int]],
) -> Generator[Finding, None, Any]:
    """Build the data set of a loader, return it, and check each part: number of images, files, labels of a sample.

    With ``full``, all labels are read and classes that never occur are named. ``track`` shows progress over items.
    """
    variables = sorted(set(re.findall(r'\{\{[\'"]?\s*\$(\w+)\s*:', cfg.text)))  # those that the config asks for
    for leaf in leaf_datasets(cfg[loader].dataset):
        if not leaf.get('backend_args'):  # else it is not on a disk
            _refuse_missing_paths(leaf, variables)
    dataset = DATASETS.build(cfg[loader].dataset)
    parts = leaf_datasets(dataset)
    for part in parts:
        findings, damaged = _check_files(part, track)
        if 'gt_label' in part.get_data_info(0):  # of MMPretrain
            yield from findings or [_judge_classes(part, cfg.model.get('head') or {})]
            continue
        usable = [i for i in range(len(part)) if not damaged or damaged.isdisjoint(_files(part, i))]
        spread = np.linspace(0, len(usable) - 1, len(usable) if full else min(SAMPLE, len(usable))).round()
        sample = track([usable[i] for i in spread.astype(int)], 'reading files')
        refuse_text(part.metainfo.get('classes'))
        ignored = ignored_labels(cfg)
        findings += _judge_labels(part, _read_labels(part, sample, ignored), len(usable), full, ignored)
        if any(finding.verdict is Verdict.FAIL for finding in findings):
            findings.pop()  # the last one says what was read, as OK
        for finding in findings:
            place = f'{_place(part)}: ' if len(parts) > 1 or finding.verdict is Verdict.OK else ''
            yield replace(finding, found=place + finding.found)
    return dataset


def known_count(dataset: Any) -> int | None:
    """Return how many images the released data set of this type and split has, if that is known."""
    splits = KNOWN.get(type(dataset).__name__)
    if splits is None:
        return None
    if type(dataset).__name__ == 'CityscapesDataset' and 'leftImg8bit' not in dataset.data_prefix['img_path']:
        return None  # other data sets with the same classes use its type
    return splits.get(Path(dataset.ann_file).stem or Path(dataset.data_prefix['img_path']).name)


def why_unreadable(path: str) -> str | None:
    """Decode an image file to its end and say why that fails; ``None`` where it does not.

    OpenCV, with which the pipeline reads, fills the missing part of a truncated JPEG with gray.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        if not os.path.getsize(path):
            return 'empty'
        return 'not an image' if Path(path).suffix.lower() in LAST_BYTES else None  # Pillow may not know others
    except Exception as error:
        return str(error)
    return None


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Let Pillow open images of any size, as OpenCV does."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def refuse_text(classes: Any) -> None:
    """Check that classes are a list: MMEngine takes a text that names no file for one, letter by letter.

    Raises:
        Problem: They are a text.
    """
    if isinstance(classes, str):
        raise Problem(f'The classes of the data set are one text, {classes!r}, which names no file that is there.',
                      "Set metainfo=dict(classes=[...]) to a list of names, or to a file with a name on each line.")


def ranges(values: Sequence[int]) -> str:
    """Return sorted numbers in short: ``0-3, 7``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ', '.join(f'{a}-{b}' if a < b else str(a) for a, b in runs) or 'none'


def _refuse_missing_paths(leaf: dict, variables: Sequence[str]) -> None:
    root = leaf.get('data_root') or ''
    fix = f'export {variables[0]}=/path/to/data, or set' if variables else 'Set'
    fix += ' data_root in the config; a relative one starts at the folder that you train from.'
    prefix = leaf.get('data_prefix') or {}
    prefix = dict(img_path=prefix) if isinstance(prefix, str) else prefix
    for key, part in dict(data_root='', **prefix, ann_file=leaf.get('ann_file')).items():
        path = os.path.join(root, part) if part else root
        if path and not os.path.exists(path):
            raise Problem(f'{key} {path} of {type_name(leaf)} does not exist.', fix if key == 'data_root' else
                          f'Unpack it there, or set {key} of the data set. If the root is another: {fix}')


def _place(dataset: Any) -> str:
    place, root = dataset.ann_file or dataset.data_prefix.get('img_path') or '', dataset.data_root or ''
    place = os.path.relpath(place, root) if root and place.startswith(root) else place
    return f'{type(dataset).__name__} {place}'.removesuffix(' .').strip()


def _files(dataset: Any, index: int) -> list[str]:
    info = dataset.get_data_info(index)
    return [path for path in (info.get('img_path'), info.get('seg_map_path')) if path]


def _check_files(dataset: Any, track: Callable) -> tuple[list[Finding], set[str]]:
    """Count the images, and find files that are missing or end too early; return the paths of these, too."""
    findings, missing, broken = [], set(), {}
    known = known_count(dataset)
    if known not in (None, len(dataset)) and dataset.ann_file:
        findings.append(warn(f'{len(dataset)} images; the released split has {known}.',
                             f'Restore {os.path.basename(dataset.ann_file)} unless you mean a subset.'))
    elif known not in (None, len(dataset)):
        findings.append(fail(f'{len(dataset)} images in {dataset.data_prefix["img_path"]}; the released split has '
                             f'{known}.', 'Unpack the archive again; a subset that you mean goes into an ann_file.'))
    remote = getattr(dataset, 'backend_args', None)  # MMPretrain's have none
    for i in track(range(0 if remote else len(dataset)), 'looking for files'):
        for path in _files(dataset, i):
            if not os.path.isfile(path):
                missing.add(path)
                continue
            with open(path, 'rb') as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 32))
                whole = size and LAST_BYTES.get(Path(path).suffix.lower(), b'') in file.read()
            if not whole and (reason := why_unreadable(path)):
                broken[path] = reason
    if missing:
        findings.append(fail(f'{len(missing)} files are missing: {some(sorted(missing))}.',
                             'Restore them, or check data_prefix, ann_file, img_suffix and seg_map_suffix.'))
    if broken:
        named = some([f'{path} ({reason})' for path, reason in broken.items()])
        findings.append(fail(f'{len(broken)} files cannot be read: {named}.', RESTORE))
    return findings, missing | broken.keys()


def _judge_classes(dataset: Any, head: dict) -> Finding:
    """Compare the labels of whole images, and the classes that they are of, with the classes of a classifier's head."""
    infos = map(dataset.get_data_info, range(len(dataset)))
    labels = {int(label) for info in infos for label in np.atleast_1d(info['gt_label'])}
    n, classes = head.get('num_classes'), dataset.metainfo.get('classes') or ()
    found = f'{_place(dataset)}: {len(dataset)} images, labels {ranges(sorted(labels))}'
    if n and labels - set(range(n)):
        return fail(f'{found}, and the head has {n} classes.', 'Set model.head.num_classes, or correct the labels.')
    if n and classes and len(classes) != n:
        return fail(f'{found} of {len(classes)} classes, and the head has {n}.', 'Set model.head.num_classes; where '
                    'folders are the classes, each split needs all of them, or labels would differ.')
    return ok(found)


def _occurrences(label: np.ndarray) -> dict[int, int]:
    """Return how often each value occurs; quickly where there are 256 at most."""
    if label.dtype == np.uint8:
        counts = np.bincount(label.ravel())
        return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}
    values, counts = np.unique(label, return_counts=True)
    return dict(zip(map(int, values), map(int, counts), strict=True))


def _largest_stored(path: str) -> int:
    """Return the largest value of a label file of more than 8 bits; 0 for any other, which holds none above 255."""
    try:
        with _of_any_size(), Image.open(path) as image:
            return int(np.max(image)) if image.mode.startswith(('I', 'F')) else 0
    except UnidentifiedImageError:
        return 0  # what Pillow does not know, code of the user's reads


@dataclass
class _Labels:
    """What the labels of a sample hold; the lists name files.

    Attributes:
        pixels, stored: How often each label occurs, and occurs before ``reduce_zero_label``.
        files: How many were read.
        narrow: Whether one was loaded as 8 bits.
        unreadable: Images that cannot be read, or whose labels cannot, with the reason.
        large: Images that, or whose labels, are larger than Pillow reads.
        sizes: Images whose labels have another size.
        colored: Labels that are colors.
        wide: Labels of more than 8 bits that lose some of them.
        blank: Labels of which every pixel is ignored.
        outside: Labels that hold values outside the classes, and these values.
    """

    pixels: np.ndarray
    stored: np.ndarray
    files: int = 0
    narrow: bool = False
    unreadable: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    colored: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)
    outside: dict[str, list[int]] = field(default_factory=dict)


def _read_labels(dataset: Any, indices: Iterable[int], ignored: set[int]) -> _Labels:
    """Read samples with the loading transforms of the data set's own pipeline."""
    load = [transform for transform in dataset.pipeline.transforms if type(transform).__name__.startswith('Load')]
    load_stored = [copy.copy(transform) for transform in load]
    for transform in load_stored:
        transform.reduce_zero_label = False
    n = len(dataset.metainfo.get('classes') or ())
    read = _Labels(*(np.zeros(max(256, n + 1), np.int64) for _ in range(2)))
    for index in indices:
        read.files += 1
        info = dataset.get_data_info(index)
        image, path = info['img_path'], info.get('seg_map_path')
        reason = None if dataset.backend_args else why_unreadable(image)
        try:
            loaded = Compose(load)(info)
        except Image.DecompressionBombError:
            read.large.append(image)
            continue
        except Exception as error:
            reason = reason or describe(error)
        if reason:
            read.unreadable.append(reason if image in reason else f'{image} or its label ({reason})')
            continue
        if 'gt_seg_map' not in loaded:
            raise Problem('The pipeline does not load labels.',
                          "Put dict(type='LoadAnnotations') after LoadImageFromFile.")
        label = loaded['gt_seg_map']
        if label.ndim != 2:
            read.colored.append(path)
            continue
        (h, w), (label_h, label_w) = loaded['img'].shape[:2], label.shape
        if (h, w) != (label_h, label_w):
            read.sizes.append(f'{image} {w}x{h}, label {label_w}x{label_h}')
        read.narrow |= label.dtype == np.uint8
        if label.dtype == np.uint8 and not dataset.backend_args and (top := _largest_stored(path)) > 255:
            read.wide.append(f'{path} (up to {top})')
            continue
        counts = _occurrences(label)
        for value in counts.keys() & set(range(len(read.pixels))):
            read.pixels[value] += counts[value]
        present = counts.keys() - ignored
        if strange := sorted(present.difference(range(n))):
            read.outside[path] = strange
        if not present:
            read.blank.append(path)
        if dataset.reduce_zero_label:
            unmapped = dict(dataset.get_data_info(index), reduce_zero_label=False, label_map=None)
            for value, count in _occurrences(Compose(load_stored)(unmapped)['gt_seg_map']).items():
                read.stored[value] += count
    return read


def _judge_labels(dataset: Any, read: _Labels, usable: int, full: bool, ignored: set[int]) -> Iterator[Finding]:
    """Judge what was read, of so many usable files; the last finding says what it was, as OK."""
    classes = dataset.metainfo.get('classes') or ()
    n, of = len(classes), f'of {read.files} read'
    if read.unreadable:
        yield fail(f'{len(read.unreadable)} {of} cannot be read: {some(read.unreadable)}.', RESTORE)
    if read.large:
        yield fail(f'{len(read.large)} {of} have an image or label that is larger than Pillow reads: '
                   f'{some(read.large)}.',
                   "Cut them into tiles, or set imdecode_backend='cv2' in LoadAnnotations and LoadImageFromFile.")
    if read.wide:
        yield fail(f'{len(read.wide)} labels {of} hold numbers above 255, of which mmseg keeps the last 8 bits (256 '
                   f'becomes 0): {some(read.wide)}.',
                   'Write class numbers 0-254, and 255 for what is to be ignored, as 8 bits.')
    if n > 255 and read.narrow:
        yield fail(f'{n} classes, and labels of 8 bits tell 255 apart.', 'Join classes, or load labels of 16 bits by '
                   'a transform of your own, and set ignore_index of decoders and metric.')
    if read.sizes:
        yield fail(f'{len(read.sizes)} {of} have a label of another size: {some(read.sizes)}.',
                   "Restore the pairs: a label has its image's size.")
    if read.colored:
        yield fail(f'{len(read.colored)} labels {of} are colors, not class numbers: {some(read.colored)}.',
                   "Convert them to one channel of class numbers; palette PNGs need imdecode_backend='pillow' instead.")
    if read.outside:
        named = [f'{path} ({ranges(values)})' for path, values in read.outside.items()]
        yield fail(f'{len(read.outside)} labels {of} hold values outside the {n} classes 0-{n - 1} and '
                   f'{", ".join(map(str, sorted(ignored)))}, which is ignored: {some(named)}.',
                   _outside_fix(read.outside, n, dataset))
    if read.blank:
        yield Finding(Verdict.FAIL if len(read.blank) == read.files - len(read.unreadable) else Verdict.WARN,
                      f'{len(read.blank)} labels {of} ignore every pixel: {some(read.blank)}.',
                      'Nothing is learned from them: check the labels, reduce_zero_label and the classes.')
    elif n == 2 and not read.pixels[1] and read.pixels[255]:
        yield fail('The labels hold only 0 and 255, and 255 is ignored: class 1 never occurs.',
                   'Write masks of 0 and 255 as 0 and 1.')
    elif read.stored[0] and not read.stored[n]:  # they were 0 to n-1 already
        seen = int((read.stored[1:n] > 0).sum())
        yield Finding(Verdict.FAIL if read.files == usable or seen == n - 1 else Verdict.WARN,
                      'reduce_zero_label=True ignores label 0, which occurs, and shifts the others down; but no label '
                      f'is {n}, so class {n - 1} would stay empty ({seen} of the labels 1-{n - 1} were seen).',
                      f'Set reduce_zero_label=False, unless 0 means unlabeled and classes are numbered 1-{n}.')
    unseen = [] if read.wide or read.large else [name for i, name in enumerate(classes) if not read.pixels[i]]
    if full and unseen and read.files > len(read.unreadable):
        yield warn(f'{len(unseen)} classes never occur: {some(unseen, 8)}.',
                   'Their IoU will be NaN or 0: check the labels and the classes.')
    known = ', all of them' if known_count(dataset) == len(dataset) else ''
    yield ok(f'{len(dataset)} images{known}; {read.files} read, labels {ranges(np.flatnonzero(read.pixels).tolist())}, '
             f'reduce_zero_label={dataset.reduce_zero_label}')


def _outside_fix(outside: dict[str, list[int]], n: int, dataset: Any) -> str:
    if all(values == [n] for values in outside.values()) and not dataset.reduce_zero_label:
        return (f'If 0 means unlabeled and classes are numbered 1-{n}, set reduce_zero_label=True in the data set; '
                f'if {n} means unlabeled, rewrite it as 255.')
    if type(dataset).__name__ == 'CityscapesDataset':
        return "These look like label ids: make train ids with mmseg's tools/dataset_converters/cityscapes.py."
    return 'Rewrite them as class numbers, and what is to be ignored as 255; or correct the classes of the data set.'
