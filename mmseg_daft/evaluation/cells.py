"""What is evaluated: test sets, and the own one under corruptions, opened and checked before anything is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmseg.registry import DATASETS

from mmseg_daft.analysis.measure import image_names
from mmseg_daft.engine.configs import ConfigError, is_classifier, types_in
from mmseg_daft.engine.training_data import leaf_datasets
from mmseg_daft.evaluation.confusion import ACCURACY, LEAST_IMAGES, MIOU, Measure
from mmseg_daft.evaluation.corruptions import LIBRARY, corrupted
from mmseg_daft.evaluation.sets import mapped_set
from mmseg_daft.evaluation.store import BLOCK, Key

OWN, CORRUPTED = 'test', 'corrupted'
"""What a report calls the config's own test set, and that under corruptions."""


class Cell:
    """One reading of a set's images, as they are or under a corruption.

    Args:
        set_: The set's name.
        config: The data set's, with labels of the models' classes.
        corruption: Its name, ``''`` for none; ``severity`` is 0 then.
        store: A folder that keeps corrupted images.
        like: A cell of the same images and labels, which are not looked at again.

    Attributes:
        images: How many there are.
        made_from: What tells its images and labels apart from those of any other cell.

    Raises:
        ValueError: There are no images, or no labels.
    """

    BATCH = 1

    def __init__(
        self, set_: str, config: dict, corruption: str = '', severity: int = 0, store: str | None = None,
        like: Cell | None = None,
    ) -> None:
        self.key: Key = (set_, corruption, severity)
        drawn = corruption and config.get('corruption') != corruption  # else the files are under it already
        self.dataset = DATASETS.build(corrupted(config, corruption, severity, store) if drawn else config)
        for leaf in leaf_datasets(self.dataset):
            leaf.test_mode = True  # else MMEngine takes another image, by chance, for one that a pipeline gives up
        self.images = len(self.dataset)
        if not self.images:
            raise ValueError(f'The set {set_!r} is empty. Check its data_root, ann_file, data_prefix, img_suffix and '
                             'seg_map_suffix.')
        self.files = like.files if like else self._look(config)
        self.made_from = dict(images=self.images, files=self.files, dataset=config)
        if drawn:
            self.made_from['corruption'] = [corruption, severity, version(LIBRARY)]

    def _look(self, config: Mapping[str, Any]) -> str:
        """Return a digest of the files' names and sizes, once they are seen to be there."""
        set_ = self.key[0]
        if not all('LoadAnnotations' in types_in(part.get('pipeline')) for part in leaf_datasets(config)):
            raise ValueError(f'The pipeline of the set {set_!r} loads no labels, so there is nothing to compare with. '
                             "Put dict(type='LoadAnnotations') before PackSegInputs.")
        files = hashlib.sha256()
        for image, label in map(self.places, range(self.images)):
            for what, path in (('image', image), ('label', label)):
                if not (path and Path(path).is_file()):
                    raise ValueError(f'The set {set_!r} has no {what} {path or f"for {image}"}. Check its data_prefix, '
                                     'img_suffix and seg_map_suffix, or leave the set out.')
                files.update(f'{path}\0{Path(path).stat().st_size}\n'.encode('utf-8', 'surrogateescape'))
        return files.hexdigest()

    def __str__(self) -> str:
        set_, corruption, severity = self.key
        return f'{set_}, {corruption} {severity}' if corruption else set_

    def places(self, number: int) -> tuple[str, str | None]:
        """Return the paths of an image and of its label."""
        info = self.dataset.get_data_info(number)
        return info['img_path'], info.get('seg_map_path')

    def names(self) -> list[str]:
        """Return a short name for each image."""
        return image_names(self.places(number)[0] for number in range(self.images))

    def blocks(self) -> Iterator[range]:
        """Yield the images' numbers, block by block."""
        return (range(start, min(start + BLOCK, self.images)) for start in range(0, self.images, BLOCK))

    def batches(self, block: range) -> list[range]:
        """Return parts of a block that models see at once, the same for any number of processes."""
        return [block[start:start + self.BATCH] for start in range(0, len(block), self.BATCH)]


class LabeledCell(Cell):
    """A cell of a classifier: each image has one label, and is a file or an array that the data set holds.

    Raises:
        ConfigError: The data set cannot be built.
    """

    BATCH = 32

    def __init__(self, set_: str, config: dict, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(set_, config, *args, **kwargs)
        except (OSError, ValueError):
            raise
        except Exception as error:  # whatever a data set raises that finds no folder, or does not know an argument
            raise ConfigError(f'The set {set_!r} cannot be built: {error or type(error).__name__} (Check its type, '
                              'data_root and other arguments in the config.)') from error

    def _look(self, config: Mapping[str, Any]) -> str:
        """Return a digest of the files' names and sizes, or of the arrays, and of the labels."""
        files, classes = hashlib.sha256(), len(self.dataset.metainfo.get('classes') or ())
        for number in range(self.images):
            info = self.dataset.get_data_info(number)
            image, label = self.places(number)[0], info.get('gt_label')
            if not isinstance(label, Integral) or not 0 <= label < classes:
                raise ValueError(f'The label of {image} in the set {self.key[0]!r} is {label!r}, and not one of '
                                 f'{classes} classes, counted from 0. Correct the labels, or name the classes.')
            files.update(f'{image}\0{label}\n'.encode('utf-8', 'surrogateescape'))
            if 'img_path' not in info:
                files.update(np.ascontiguousarray(info['img']))
            elif Path(image).is_file():
                files.update(f'{Path(image).stat().st_size}\n'.encode())
            else:
                raise ValueError(f'The set {self.key[0]!r} has no image {image}. Check its data_root and data_prefix.')
        return files.hexdigest()

    def places(self, number: int) -> tuple[str, None]:
        """Return the path of an image, or which one it is of the arrays."""
        return self.dataset.get_data_info(number).get('img_path', f'image {number}'), None

    def labels(self) -> list[int]:
        """Return the images' labels."""
        return [self.dataset.get_data_info(number)['gt_label'] for number in range(self.images)]


@dataclass(frozen=True)
class TestData:
    """All that runs are evaluated on.

    Attributes:
        classes: Their names, in the order of the labels, and their colors.
        cells: The own test set first.
        lacking: By set, the classes that it cannot have.
        measure: What the models are judged by.
    """

    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    cells: Sequence[Cell]
    lacking: Mapping[str, Sequence[str]]
    measure: Measure = MIOU

    def remarks(self) -> list[str]:
        """Return what a reader has to know of the sets."""
        found = [f'{name} has no labels of {", ".join(classes)}: its mIoU is over the other '
                 f'{len(self.classes) - len(classes)} classes.' for name, classes in self.lacking.items() if classes]
        return found + [f'{cell} has {cell.images} image{"s" * (cell.images > 1)}, too few for intervals.'
                        for cell in self.cells if not cell.key[1] and cell.images < LEAST_IMAGES]


def open_cells(
    cfg: Config, further: Mapping[str, dict], corruptions: Sequence[tuple[str, int]], store: str | None = None,
) -> TestData:
    """Open the config's test set, further ones and, under corruptions, the first.

    Args:
        further: By name, as from ``read_sets``.
        corruptions: With their severities.
        store: A folder that keeps corrupted images.

    Raises:
        ValueError: A set cannot be used.
    """
    config = cfg.test_dataloader.dataset
    own = (LabeledCell if is_classifier(cfg) else Cell)(OWN, config)
    classes = own.dataset.metainfo.get('classes')
    if not classes or isinstance(classes, str):
        raise ValueError(f'test_dataloader.dataset names no list of classes, but {classes!r}.')
    taken = [name for name in (OWN, CORRUPTED) if name in further]
    if taken:
        raise ValueError(f'A further set cannot be named {taken[0]!r}, which is how the report calls the own test set. '
                         'Rename it in the file of sets.')
    if is_classifier(cfg):
        return _labeled_data(cfg, own, further, corruptions, store)
    pipeline = leaf_datasets(config)[0].get('pipeline')
    mapped = [mapped_set(name, dataset, classes, pipeline) for name, dataset in further.items()]
    cells = [own, *(Cell(each.name, each.dataset) for each in mapped)]
    cells += [Cell(OWN, config, name, severity, store, like=own) for name, severity in corruptions]
    return TestData(tuple(classes), own.dataset.metainfo.get('palette') or (), cells,
                    {OWN: (), **{each.name: each.lacking for each in mapped}})


def _labeled_data(
    cfg: Config, own: Cell, further: Mapping[str, dict], corruptions: Sequence[tuple[str, int]], store: str | None,
) -> TestData:
    """Open a classifier's further sets, of the own classes, and its test set under corruptions.

    These are drawn, or those that are published: parts of ``test_cfg.domains`` that name their ``corruption``.
    """
    classes, config = tuple(own.dataset.metainfo['classes']), cfg.test_dataloader.dataset
    cells = [own, *(LabeledCell(name, dataset) for name, dataset in further.items())]
    for cell in cells:
        its = tuple(cell.dataset.metainfo.get('classes') or ())
        if its != classes:
            raise ConfigError(f'The classes of the set {cell} are {", ".join(its) or "not named"}, and not those of '
                              f'the own test set: {", ".join(classes)}. Name them in its config, so that labels agree.')
    published = {part['corruption']: part for domain in ((cfg.get('test_cfg') or {}).get('domains') or {}).values()
                 for part in leaf_datasets(domain) if 'corruption' in part}
    labels = own.labels() if published and corruptions else []
    for name, severity in corruptions:
        if not published:
            cells.append(LabeledCell(OWN, config, name, severity, store, like=own))
            continue
        if name not in published:
            raise ConfigError(f'The config has no corrupted images of {name}, only of {", ".join(published)}: see '
                              'test_cfg.domains. Leave it out.')
        cells.append(LabeledCell(OWN, dict(published[name], severity=severity), name, severity))
        if cells[-1].labels() != labels:
            raise ConfigError(f'The corrupted images {cells[-1]} have other labels than the test set, so they are not '
                              'the same images. Get both again.')
    return TestData(classes, (), cells, {cell.key[0]: () for cell in cells if not cell.key[1]}, ACCURACY)
