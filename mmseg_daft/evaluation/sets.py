"""Further test sets of a run: their place, and how their classes become the run's."""

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadAnnotations
from mmengine import fileio
from mmengine.dataset import Compose
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.engine.configs import ConfigError, read_config
from mmseg_daft.engine.training_data import leaf_datasets
from mmseg_daft.evaluation.corruptions import insert_after, near
from mmseg_daft.files import shipped

IGNORED = 255
"""mmseg's label of pixels that do not count."""


@dataclass(frozen=True)
class MappedSet:
    """A test set whose labels are the run's.

    Attributes:
        name: As in the file of sets.
        dataset: Its config, ready to be built.
        lacking: Classes of the run that the set has no labels of: they have no IoU there, its mIoU is over the others.
        ignored: Classes of the set whose pixels do not count.
    """

    name: str
    dataset: dict
    lacking: tuple[str, ...]
    ignored: tuple[str, ...]


def read_sets(file: str | Path, names: Iterable[str] = ()) -> dict[str, dict]:
    """Return test sets by name: the configs of their data sets, each with an optional ``label_map``.

    Args:
        file: A config with ``sets = dict(NAME=dict(type=…, data_root=…, …), …)``, or the name of a shipped one.
        names: The sets to take; all, if there are none.

    Raises:
        ConfigError: There is no such file or set, or the file defines none.
    """
    folder = shipped(Path(__file__).parents[1], 'configs/_base_/sets')
    known = {path.stem: path for path in sorted(folder.glob('*.py'))} if folder else {}
    if not Path(file).is_file() and str(file) not in known:
        raise ConfigError(f'There is no file of test sets {file}. Give a path, or a shipped one: '
                          f'{", ".join(known) or "none"}.')
    sets = read_config(file if Path(file).is_file() else known[str(file)]).get('sets')
    if not isinstance(sets, dict) or not sets or not all(isinstance(one, dict) for one in sets.values()):
        raise ConfigError(f'{file} defines no test sets: write sets = dict(NAME=dict(type=…, data_root=…)).')
    names = tuple(names) or tuple(sets)
    for name in names:
        if name not in sets:
            raise ConfigError(f'{file} has no test set {name}.{near(name, sets)} It has {", ".join(sets)}.')
        if not re.fullmatch(r'\w[\w.-]*', name):
            raise ConfigError(f'{file} names a test set {name!r}. Use letters, digits, _, - and ., for names of files.')
    return {name: sets[name] for name in names}


def mapped_set(name: str, config: dict, classes: Sequence[str], pipeline: Sequence[dict]) -> MappedSet:
    """Return a test set with the run's pipeline and labels, after a look at its files and at the first sample.

    A class of the set becomes the run's class of the same name, unless ``label_map`` names another one for it, or
    ``None``: its pixels do not count. ``'*'`` there stands for all classes that neither the map nor the run has.

    Args:
        name: For messages.
        config: As from ``read_sets``; a ``pipeline`` of its own replaces that of the run.
        classes: The run's, in order of their labels.
        pipeline: The run's test pipeline.

    Raises:
        ConfigError: The data set cannot be built or read, has no images or lacks labels, or a class of it is not
            accounted for, unknown, or mapped to one that the run lacks.
    """
    dataset = copy.deepcopy(config)
    label_map = dataset.pop('label_map', None) or {}
    for leaf in leaf_datasets(dataset):
        leaf.setdefault('pipeline', list(pipeline))
    try:
        built = _built(dataset)
        samples = [[leaf.get_data_info(i) for i in range(len(leaf))] for leaf in leaf_datasets(built)]
    except Exception as error:  # whatever a data set raises that finds no folder, or does not know an argument
        raise ConfigError(f'The test set {name} cannot be built: {error} (Check its type, data_root, data_prefix and '
                          'suffixes, or name the sets to take.)') from error
    _refuse_missing(name, samples, leaf_datasets(built))
    own = built.metainfo.get('classes') or ()
    labels = _labels(name, own, label_map, classes)
    try:
        for leaf, infos in zip(leaf_datasets(dataset), samples, strict=True):
            leaf['pipeline'] = insert_after(leaf['pipeline'], LoadAnnotations, dict(type='MapLabels', labels=labels))
            with preserved_random_state():
                Compose(leaf['pipeline'])(infos[0])
    except Exception as error:  # also label files of a wrong kind, as far as the first one tells
        raise ConfigError(f'The test set {name} cannot be read: {error}') from error
    return MappedSet(name, dataset,
                     lacking=tuple(one for i, one in enumerate(classes) if i not in labels),
                     ignored=tuple(one for one, label in zip(own, labels, strict=True) if label == IGNORED))


def _built(dataset: dict) -> Any:
    """Build a data set to look at its files; without serializing, which collects garbage, in seconds."""
    dataset = copy.deepcopy(dataset)
    for leaf in leaf_datasets(dataset):
        leaf['serialize_data'] = False
    return DATASETS.build(dataset)


def _refuse_missing(name: str, samples: list[list[dict]], leaves: list) -> None:
    for infos, leaf in zip(samples, leaves, strict=True):
        missing = [path or info['img_path'] for info in infos if not (path := info.get('seg_map_path')) or not
                   fileio.exists(path, backend_args=getattr(leaf, 'backend_args', None))]
        if missing or not infos:
            found = f'{len(infos)} images in {dict(leaf.data_prefix)}'
            raise ConfigError(f'The test set {name} found {found}' + (
                f' and lacks the labels of {len(missing)}, such as {missing[0]}' if missing else '') +
                '. Check data_root, data_prefix, img_suffix and seg_map_suffix, or name the sets to take.')


def _labels(name: str, own: Sequence[str], label_map: Any, classes: Sequence[str]) -> list[int]:
    """Return the run's label of each class of the set."""
    if not own:
        raise ConfigError(f'The data set of the test set {name} names no classes. Give metainfo=dict(classes=(…)).')
    if not isinstance(label_map, dict):
        raise ConfigError(f'The label_map of the test set {name} is no dict of class names: {label_map!r}.')
    for source, target in label_map.items():
        if source != '*' and source not in own:
            raise ConfigError(f'The label_map of the test set {name} names {source}, which is no class of its data '
                              f'set.{near(source, own)} Its classes are {", ".join(own)}.')
        if target is not None and target not in classes:
            raise ConfigError(f'The test set {name} maps {source} to {target}, which is no class of the run.'
                              f'{near(target, classes)} Its classes are {", ".join(classes)}.')
    targets = {**{one: one for one in classes}, **label_map}
    lost = [one for one in own if one not in targets]
    if lost and '*' not in label_map:
        raise ConfigError(f'The run lacks these classes of the test set {name}: {", ".join(lost)}. Name in its '
                          'label_map a class of the run for each, or None, so that their pixels do not count.')
    mapped = [targets.get(one, label_map.get('*')) for one in own]
    if not any(mapped):
        raise ConfigError(f'The test set {name} shares no class with the run: {", ".join(own)}. Give a label_map.')
    return [IGNORED if one is None else list(classes).index(one) for one in mapped]


@TRANSFORMS.register_module()
class MapLabels(BaseTransform):
    """Replace the labels of ``results['gt_seg_map']``, several by one if need be; put it behind ``LoadAnnotations``.

    mmseg's own way, ``metainfo=dict(classes=…)``, can leave out classes and put them in another order, but can neither
    rename nor merge them, and lets pass labels that stand for no class.

    Args:
        labels: The new label of each old one, 255 for what does not count. Label 255 stays.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = list(labels)
        self.table = np.full(256, -1, np.int16)
        self.table[:len(labels)] = labels
        self.table[IGNORED] = IGNORED

    def transform(self, results: dict) -> dict:
        """Replace the labels.

        Raises:
            ValueError: One stands for no class, or labels and image differ in size.
        """
        old, place = results['gt_seg_map'], results.get('seg_map_path', 'The label file')
        size = results.get('ori_shape', old.shape)[:2]
        if old.shape != size:
            raise ValueError(f'{place} has the shape {old.shape}, and its image {size}. Labels are one channel of the '
                             "image's size.")
        labels = self.table[old]
        if (labels < 0).any():
            raise ValueError(f'{place} holds label {old[labels < 0].min()}, and the data set has the classes 0 to '
                             f'{len(self.labels) - 1}, and 255 for what does not count. Name the files that hold them '
                             '(seg_map_suffix; for Cityscapes the train ids), or convert them.')
        results['gt_seg_map'] = labels.astype(np.uint8)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.labels})'
