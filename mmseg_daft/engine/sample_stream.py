"""The training's mini-batches from any iteration on, without running what came before.

Each sample's augmentation is a function of the seed and of the sample's place in the training's endless sequence, not
of what a loader worker drew before. So the stream can start anywhere and yields what it would have yielded there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmseg_daft.core.random_state import seed_everything_by


class _Place(NamedTuple):
    """A sample: its place in the sequence of all ranks, and its index in the data set."""

    position: int
    index: int


class SampleStream:
    """An iterator of mini-batches in the order that mmengine's ``InfiniteSampler`` gives with the same seed.

    The first ``skip`` batches are ``None`` and cost nothing, as MMEngine's loop asks for the batches that a resumed
    run has seen and drops them. Workers start with the first batch after them.

    Args:
        loader: The training loader, read for its data set, batch size, workers and collation. The data set's
            pipeline runs under a seed of its own for each sample.
        seed: Of order and augmentation; the same on all ranks.
        skip: How many batches of this rank were seen.

    Raises:
        ValueError: The loader's batches are not those of an ``InfiniteSampler``.
    """

    def __init__(self, loader: DataLoader, seed: int, skip: int = 0) -> None:
        if not isinstance(loader.sampler, InfiniteSampler) or type(loader.batch_sampler) is not BatchSampler:
            raise ValueError(
                f'train_dataloader draws its samples by {type(loader.sampler).__name__}, whose order after a resume is '
                "unknown. Use sampler=dict(type='InfiniteSampler', shuffle=True) without a batch_sampler, as mmseg's "
                'iteration-based configs do.')
        self._loader = loader
        self._seed = seed
        self._skipped, self._skip = 0, skip
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> SampleStream:
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Return the next mini-batch, ``None`` where it was seen."""
        if self._skipped < self._skip:
            self._skipped += 1
            return None
        if self._batches is None:
            self._batches = iter(self._start())
        return next(self._batches)

    def _start(self) -> DataLoader:
        loader = self._loader
        rank, world_size = get_dist_info()
        sampler = InfiniteSampler(loader.dataset, loader.sampler.shuffle, self._seed)
        seen = self._skip * loader.batch_size
        places = (_Place((seen + i) * world_size + rank, index) for i, index in enumerate(islice(sampler, seen, None)))
        return DataLoader(
            _SeededByPlace(loader.dataset, self._seed),
            sampler=places,
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            prefetch_factor=loader.prefetch_factor,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            multiprocessing_context=loader.multiprocessing_context)


class _SeededByPlace(Dataset):
    """Samples whose augmentation depends on the seed and their place alone."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, place: _Place) -> Any:
        seed_everything_by(self.seed, place.position)
        return self.dataset[place.index]
