"""One finite pass over the training data, beside the training loader and without touching it.

MMEngine's training loader must not be iterated a second time: its ``InfiniteSampler`` yields from one
stored generator, which a second iterator closes or drains (MMEngine issue 1649).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_dist_info
from torch.utils.data import DataLoader, Dataset

from mmseg_daft.core.random_state import seed_everything
from mmseg_daft.core.rank_exchange import together


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

    Attributes:
        num_batches: Mini-batches over all ranks.
        num_images: Images in them.
        waited: Seconds that the last iteration spent waiting for data, from the start of the workers on.
        rounds: Rounds that it went through: all, unless it was left early.

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
        self._sizes = list(map(len, batches))
        self._world_size = world_size
        self.waited, self.rounds = 0.0, 0
        # Without workers the pipeline runs in this process: a copy keeps what it remembers apart.
        dataset = loader.dataset if loader.num_workers else copy.deepcopy(loader.dataset)
        self._loader = DataLoader(
            _SeededSamples(dataset, seed),
            batch_sampler=batches[rank::world_size],
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            multiprocessing_context=loader.multiprocessing_context,
            **({'prefetch_factor': loader.prefetch_factor} if loader.num_workers else {}))

    def __len__(self) -> int:
        """The number of rounds, in each of which every rank has at most one mini-batch."""
        return -(-self.num_batches // self._world_size)

    def __iter__(self) -> Iterator[Any]:
        """Yield this rank's mini-batches, counting the seconds in which the next one was not there yet."""
        self.waited, self.rounds = 0.0, 0
        start = time.perf_counter()
        for batch in self._loader:
            self.waited += time.perf_counter() - start
            self.rounds += 1
            yield batch
            start = time.perf_counter()
        self.rounds = len(self)  # the last round may be the other ranks' alone

    def taken(self) -> tuple[int, int]:
        """Return how many mini-batches, and images in them, all ranks together took in the last iteration."""
        sizes = self._sizes[:self.rounds * self._world_size]
        return len(sizes), sum(sizes)


def target_loader(loader: DataLoader, seed: int, num_batches: int | None, device: torch.device) -> TargetLoader:
    """Return this rank's ``TargetLoader``, made on all ranks or on none.

    Args:
        loader: The training loader.
        seed: The seed of shuffling and augmentation, the same on every rank.
        num_batches: How many mini-batches to take over all ranks.
        device: Where the process group communicates.

    Raises:
        ValueError: As ``TargetLoader``, or the ranks found different data.
        RuntimeError: Another rank failed.
    """
    rank, world_size = get_dist_info()
    made = together(lambda: TargetLoader(loader, seed, num_batches, rank, world_size), device)
    images = all_gather_object(len(loader.dataset))
    if len(set(images)) > 1:
        raise ValueError(
            f'The ranks found {images} training images, so their shares would not fit together. Give every node the '
            'same files: see data_root and ann_file of train_dataloader.dataset.')
    return made


class _SeededSamples(Dataset):
    """Samples whose augmentation depends on the seed and the index alone."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        seed_everything(int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0]))
        return self.dataset[index]
