"""One finite pass over the training data, beside the training loader and without touching it.

MMEngine's training loader must not be iterated a second time: its ``InfiniteSampler`` yields from one
stored generator, which a second iterator closes or drains (MMEngine issue 1649).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mmseg_daft.core.random_state import seed_everything


class TargetLoader:
    """Mini-batches of the training data through the training pipeline, each image once.

    Which images form a mini-batch and how each is augmented depends on ``seed`` alone: not on the
    number of loader workers, nor on the number of ranks, which take the mini-batches in turn.

    Args:
        loader: The training loader, read for its data set, batch size, workers and collation.
        seed: The seed of shuffling and augmentation.
        num_batches: How many mini-batches to take over all ranks; ``None`` for all, the last one
            possibly short.
        rank: This process, of ``world_size``.
        world_size: The number of processes that share the pass.

    Raises:
        ValueError: The data set is empty, or has fewer mini-batches than asked for.
    """

    def __init__(
        self, loader: DataLoader, seed: int, num_batches: int | None = None, rank: int = 0, world_size: int = 1,
    ) -> None:
        batch_size = loader.batch_size or loader.batch_sampler.batch_size
        order = np.random.default_rng(seed).permutation(len(loader.dataset))
        batches = [order[i:i + batch_size].tolist() for i in range(0, len(order), batch_size)]
        if not batches:
            raise ValueError(
                'The training data set is empty, so there are no target statistics. Check data_root, ann_file, '
                'data_prefix, img_suffix and seg_map_suffix of train_dataloader.dataset.')
        if num_batches is not None and not 1 <= num_batches <= len(batches):
            raise ValueError(
                f'num_batches={num_batches}, but the training data holds {len(order)} images, that is '
                f'{len(batches)} mini-batches of {batch_size}. Use a number from 1 to {len(batches)}, or '
                'num_batches=None for all.')
        batches = batches[:num_batches]
        self.num_batches = len(batches)
        self.num_images = sum(map(len, batches))
        self._rounds = -(-len(batches) // world_size)
        # Without workers the pipeline runs in this process: a copy keeps what it remembers apart.
        dataset = loader.dataset if loader.num_workers else copy.deepcopy(loader.dataset)
        self._loader = DataLoader(
            _SeededSamples(dataset, seed),
            batch_sampler=batches[rank::world_size],
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            multiprocessing_context=loader.multiprocessing_context)

    def __len__(self) -> int:
        """The number of rounds, in each of which every rank has at most one mini-batch."""
        return self._rounds

    def __iter__(self) -> Iterator[Any]:
        """Yield this rank's mini-batches; ``None`` in a round in which it has none."""
        yield from self._loader
        yield from [None] * (self._rounds - len(self._loader))


class _SeededSamples(Dataset):
    """Samples whose augmentation depends on the seed and the index alone."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        seed_everything(int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0]))
        return self.dataset[index]
