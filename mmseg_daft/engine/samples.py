"""Samples of the training data: each image once through every wrapper, each sample a function of its seed."""

import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from mmseg_daft.core.random_state import seed_everything_by

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_CLOSED = (str, bytes, int, float, type, ModuleType, np.ndarray, Tensor)  # hold no generator, or not their own


def images_once(dataset: Any) -> list[int]:
    """Return indices of a data set, in order, that reach each image on disk once, through every wrapper.

    mmseg's bases of small data sets repeat them 40,000 times (``RepeatDataset``). Images are known by their path; a
    data set that tells none is taken as it is.
    """
    first: dict[Any, int] = {}
    for index, image in _images(dataset):
        first.setdefault(image, index)
    return list(first.values())


def _images(dataset: Any) -> Iterator[tuple[int, Any]]:
    """Yield indices of a data set, at least one for each image, each with what the image is known by."""
    if isinstance(dataset, ConcatDataset):
        start = 0
        for part in dataset.datasets:
            yield from ((start + index, image) for index, image in _images(part))
            start += len(part)
    elif isinstance(dataset, RepeatDataset) or type(dataset).__name__ == 'MultiImageMixDataset':  # of mmseg
        yield from _images(dataset.dataset)  # the first indices are the inner ones
    elif isinstance(dataset, ClassBalancedDataset):
        first = {inner: index for index, inner in reversed([*enumerate(dataset.repeat_indices)])}
        yield from ((first[inner], image) for inner, image in _images(dataset.dataset))
    else:
        info = getattr(dataset, 'get_data_info', lambda index: {})
        for index in range(len(dataset)):
            yield index, info(index).get('img_path') or (id(dataset), index)


class SeededSamples(Dataset):
    """A data set's samples, asked for by ``(number, index)`` and augmented under a seed made of seed and number.

    That is the seed of the global generators and of those that transforms keep themselves, as albumentations' do.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self._own: list[Any] | None = None  # found in the process that draws

    def __getitem__(self, place: tuple[int, int]) -> Any:
        if self._own is None:
            self._own = list(_own_generators(self.dataset))
        for seed, generator in zip(np.random.SeedSequence((self.seed, place[0], 1)).generate_state(len(self._own)),
                                   self._own, strict=True):
            _reseed(generator, int(seed))
        seed_everything_by(self.seed, place[0])
        return self.dataset[place[1]]


def _own_generators(owner: Any) -> Iterator[Any]:
    """Yield the random generators that an object, and what it holds, keep as attributes or items."""
    todo, seen = [owner], {}
    while todo:
        value = todo.pop()
        if isinstance(value, _CLOSED) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, _GENERATORS):
            yield value
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, (list, tuple, set)):
            todo += value
        else:
            todo += getattr(value, '__dict__', {}).values()


def _reseed(generator: Any, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    else:
        generator.seed(seed)
