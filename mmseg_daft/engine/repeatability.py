"""Whether a sample is a function of its seed: what promises exactness refuses transforms that no seed reaches."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.engine.samples import SeededSamples
from mmseg_daft.engine.training_data import leaf_datasets

_DRAWS = 8


def refuse_unrepeatable(dataset: Any, seed: int) -> None:
    """Check that a few samples, drawn twice under one seed, agree; all generators and the data set stay as they are.

    Raises:
        ValueError: They do not; it names the transform that draws from a source which no seed reaches.
    """
    with preserved_random_state():
        samples = SeededSamples(copy.deepcopy(dataset), seed)
        for number in range(_DRAWS):
            place = (number, number * len(dataset) // _DRAWS)
            if not _alike(samples[place], samples[place]):
                name = next(_unrepeatable_transforms(samples.dataset), 'a transform of train_dataloader.dataset')
                raise ValueError(
                    f'{name} draws random numbers that no seed reaches: one sample, drawn twice under one seed, '
                    'differs, so a resumed run would not be exact. Let it draw from the generators of random, NumPy '
                    'or PyTorch, take another transform, or leave ExactResumeHook out.')


def _unrepeatable_transforms(dataset: Any) -> Iterator[str]:
    """Yield the names of transforms whose output differs for one input and one seed."""
    for leaf in leaf_datasets(dataset):
        for number in range(_DRAWS):
            data = leaf.get_data_info(number % len(leaf))
            for transform in leaf.pipeline.transforms:
                seeded = SeededSamples([transform], number)
                first, second = (seeded[number, 0](copy.deepcopy(data)) for _ in range(2))
                if not _alike(first, second):
                    yield type(transform).__name__
                data = first


def _alike(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (Tensor, np.ndarray)):
        return a.shape == b.shape and bool(((a == b) | (a != a) & (b != b)).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if hasattr(a, '__dict__'):
        return _alike(vars(a), vars(b))
    return a == b or a != a
