"""The values in a data set's labels, read as the config's own pipeline reads them, against its classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmseg_daft.doctor.finding import Finding, Problem, Verdict, describe, fail, some, warn


@dataclass
class LabelSurvey:
    """What the files of a sample hold.

    Attributes:
        pixels: How many pixels have each value, 0 to 255, once loaded.
        raw: The same as stored, before ``reduce_zero_label``; empty where that is off.
        files: How many were read.
        unreadable: Files that cannot be read, with the reason.
        sizes: Images whose size is not their label's.
        colours: Labels of several channels.
        outside: Labels with values that are no class, and the values.
        ignored: Labels without a single labelled pixel.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    raw: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    files: int = 0
    unreadable: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)
    outside: list[tuple[str, list[int]]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def values(self) -> str:
        """The values that occur, as ranges: ``0-20, 255``."""
        return ranges(np.flatnonzero(self.pixels).tolist())


def survey(dataset: Any, indices: Iterable[int], why_unreadable: Callable[[str], str | None]) -> LabelSurvey:
    """Read images and labels by the loading transforms of a data set's own pipeline.

    Args:
        dataset: An mmseg data set.
        indices: Which samples to read.
        why_unreadable: Says of an image file why it cannot be read, if so.

    Raises:
        Problem: The pipeline does not load labels.
    """
    transforms = [t for t in dataset.pipeline.transforms if type(t).__name__.startswith('Load')]
    result = LabelSurvey()
    allowed = {*range(len(dataset.metainfo.get('classes') or ())), dataset.ignore_index, 255}
    for index in indices:
        info = dataset.get_data_info(index)
        image, label = info['img_path'], info.get('seg_map_path')
        reason = None if dataset.backend_args else why_unreadable(image)
        try:
            loaded = _load(transforms, info)
            if dataset.reduce_zero_label:
                raw = _load(transforms, dataset.get_data_info(index), reduce_zero_label=False)['gt_seg_map']
        except Exception as error:
            reason = reason or describe(error)
        if reason:
            result.unreadable.append(reason if image in reason else f'{image} or its label ({reason})')
            continue
        if 'gt_seg_map' not in loaded:
            raise Problem('The pipeline does not load labels.',
                          "Put dict(type='LoadAnnotations') after LoadImageFromFile.")
        result.files += 1
        seg = loaded['gt_seg_map']
        if seg.ndim != 2:
            result.colours.append(label)
            continue
        if seg.shape != loaded['img'].shape[:2]:
            result.sizes.append(f'{image} {_size(loaded["img"])}, label {_size(seg)}')
        counts = np.bincount(seg.ravel(), minlength=256)
        result.pixels += counts
        present = np.flatnonzero(counts).tolist()
        if set(present) - allowed:
            result.outside.append((label, sorted(set(present) - allowed)))
        if not set(present) - {dataset.ignore_index, 255}:
            result.ignored.append(label)
        if dataset.reduce_zero_label:
            result.raw = np.bincount(raw.ravel(), minlength=256) + (result.raw if result.raw.size else 0)
    return result


def label_findings(name: str, labels: LabelSurvey, dataset: Any, whole: bool, full: bool) -> Iterator[Finding]:
    """Say what is wrong with labels.

    Args:
        name: Of the check.
        labels: What was read.
        dataset: The data set.
        whole: Whether everything was read, such that a class that was not seen does not occur.
        full: Whether to name classes that do not occur.
    """
    classes = dataset.metainfo.get('classes') or ()
    n = len(classes)
    of = f'of {labels.files + len(labels.unreadable)} read'

    if labels.unreadable:
        yield fail(name, f'{len(labels.unreadable)} {of} cannot be read: {some(labels.unreadable)}.',
                   'Copy or unpack them again, or take them out of the list.')
    if labels.sizes:
        yield fail(name, f'{len(labels.sizes)} {of} have a label of another size: {some(labels.sizes)}.',
                   'Restore the pairs: a label has its image\'s size.')
    if labels.colours:
        yield fail(name, f'{len(labels.colours)} labels {of} are colours, not class numbers: {some(labels.colours)}.',
                   "Convert them to one channel of class numbers; palette PNGs need imdecode_backend='pillow' instead.")
    if labels.outside:
        values = sorted({value for _, found in labels.outside for value in found})
        files = [f'{path} ({ranges(found)})' for path, found in labels.outside]
        yield fail(name, f'{len(labels.outside)} labels {of} hold values outside the {n} classes 0-{n - 1} and '
                   f'{dataset.ignore_index}: {some(files)}.', _outside_fix(values, n, dataset))
    if not labels.files:
        return
    if labels.ignored:
        all_of_them = len(labels.ignored) == labels.files
        yield Finding(name, Verdict.FAIL if all_of_them else Verdict.WARN,
                      f'{len(labels.ignored)} labels {of} ignore every pixel: {some(labels.ignored)}.',
                      'Nothing is learnt from them: check the labels, reduce_zero_label and the classes.')
    elif n == 2 and not labels.pixels[1] and labels.pixels[255]:
        yield fail(name, 'The labels hold 0 and 255 alone, and 255 is ignored: class 1 never occurs.',
                   'Write masks of 0 and 255 as 0 and 1.')
    elif labels.raw.size:
        yield from _reduced_findings(name, labels.raw, n, whole)
    unseen = [classes[i] for i in range(n) if not labels.pixels[i]]
    if full and whole and unseen:
        yield warn(name, f'{len(unseen)} classes never occur: {some(unseen, 8)}.',
                      'Their IoU will be NaN or 0: check the labels and the classes.')


def ranges(values: list[int]) -> str:
    """Return sorted numbers in short: ``0-3, 7``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ', '.join(f'{a}-{b}' if a < b else str(a) for a, b in runs) or 'none'


def _reduced_findings(name: str, raw: np.ndarray, n: int, whole: bool) -> Iterator[Finding]:
    """``reduce_zero_label=True`` ignores 0 and shifts 1..n to 0..n-1: without an n, labels were 0..n-1 already."""
    if raw[n] or not raw[0]:
        return
    seen = int((raw[1:n] > 0).sum())
    yield Finding(name, Verdict.FAIL if whole or seen == n - 1 else Verdict.WARN,
                  'reduce_zero_label=True ignores label 0, which occurs, and shifts the others down; but no label is '
                  f'{n}, so class {n - 1} would stay empty ({seen} of the labels 1-{n - 1} were seen).',
                  f'Set reduce_zero_label=False, unless 0 means unlabelled and classes are numbered 1-{n}.')


def _outside_fix(values: list[int], n: int, dataset: Any) -> str:
    if values == [n] and not dataset.reduce_zero_label:
        return (f'If 0 means unlabelled and classes are numbered 1-{n}, set reduce_zero_label=True in the data set; '
                f'if {n} means unlabelled, rewrite it as 255.')
    if type(dataset).__name__ == 'CityscapesDataset':
        return "These look like label ids: make train ids with mmseg's tools/dataset_converters/cityscapes.py."
    return 'Rewrite them as class numbers, with 255 for what is to be ignored; or correct the classes of the data set.'


def _load(transforms: list[Any], info: dict, reduce_zero_label: bool | None = None) -> dict:
    if reduce_zero_label is not None:  # as stored: without label map, too
        transforms = [copy.copy(transform) for transform in transforms]
        for transform in transforms:
            transform.reduce_zero_label = reduce_zero_label
        info = dict(info, reduce_zero_label=reduce_zero_label, label_map=None)
    for transform in transforms:
        info = transform(info)
    return info


def _size(array: np.ndarray) -> str:
    return f'{array.shape[1]}x{array.shape[0]}'
