"""The training data: in one finite pass, through as much of the model as has to run, and what they are called."""

import copy
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from mmseg_daft.core.ranks import Ranks
from mmseg_daft.engine.samples import SeededSamples, images_once


class TargetLoader:
    """Mini-batches of the training data through the training pipeline, each image once, beside the training loader.

    MMEngine's training loader must not be iterated a second time: its ``InfiniteSampler`` yields from one stored
    generator, which a second iterator closes or drains (MMEngine issue 1649). Which images form a mini-batch and how
    each is augmented depends on ``seed`` alone: not on the number of loader workers, nor on the number of ranks, which
    take the mini-batches in turn.

    Args:
        loader: The training loader, read for its data set, batch size, workers and collation.
        seed: Of shuffling and augmentation.
        num_batches: How many mini-batches to take over all ranks; ``None`` for all, the last one possibly short.

    Attributes:
        num_batches: Mini-batches over all ranks.
        num_images: Images that the training data hold.
        seconds, waited: Wall time of the last iteration, and how much of it was spent waiting for data.
        rounds: Rounds that it went through: all, unless it was left early.

    Raises:
        ValueError: The data set is empty, or has fewer mini-batches than asked for.
    """

    def __init__(
        self, loader: DataLoader, seed: int, num_batches: int | None = None, rank: int = 0, world_size: int = 1,
    ) -> None:
        batch_size = loader.batch_size or loader.batch_sampler.batch_size
        images = images_once(loader.dataset)
        order = np.array(images, int)[np.random.default_rng(seed).permutation(len(images))]
        batches = [[(i, i) for i in order[start:start + batch_size].tolist()]
                   for start in range(0, len(order), batch_size)]
        if not batches:
            raise ValueError('The training data set is empty, so there are no target statistics. Check data_root, '
                             'ann_file, data_prefix, img_suffix and seg_map_suffix of train_dataloader.dataset.')
        if num_batches is not None and not 1 <= num_batches <= len(batches):
            raise ValueError(
                f'num_batches={num_batches}, but the training data hold {len(order)} images, that is '
                f'{len(batches)} mini-batches of {batch_size}. Use a number from 1 to {len(batches)}, or '
                'num_batches=None for all.')
        self._sizes = list(map(len, batches[:num_batches]))
        self.num_batches, self.num_images, self._world_size = len(self._sizes), len(images), world_size
        # Without workers the pipeline runs in this process: a copy keeps what it remembers apart.
        dataset = loader.dataset if loader.num_workers else copy.deepcopy(loader.dataset)
        self._loader = DataLoader(
            SeededSamples(dataset, seed),
            batch_sampler=batches[:num_batches][rank::world_size],
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            multiprocessing_context=loader.multiprocessing_context,
            worker_init_fn=loader.worker_init_fn,
            **({'prefetch_factor': loader.prefetch_factor} if loader.num_workers else {}))

    def __len__(self) -> int:
        """Return the number of rounds, in each of which every rank has at most one mini-batch."""
        return -(-self.num_batches // self._world_size)

    def __iter__(self) -> Iterator[Any]:
        """Yield this rank's mini-batches, and count the time."""
        self.waited, self.rounds = 0.0, 0
        begin = start = time.perf_counter()
        try:
            for batch in self._loader:
                self.waited += time.perf_counter() - start
                self.rounds += 1
                yield batch
                start = time.perf_counter()
            self.rounds = len(self)  # the last round may be the other ranks' alone
        finally:
            self.seconds = time.perf_counter() - begin

    def taken(self) -> tuple[int, int]:
        """Return how many mini-batches, and images in them, all ranks together took in the last iteration."""
        sizes = self._sizes[:self.rounds * self._world_size]
        return len(sizes), sum(sizes)


def target_loader(loader: DataLoader, seed: int, num_batches: int | None, ranks: Ranks | None) -> TargetLoader:
    """Return this rank's ``TargetLoader``, made on all ranks or on none, which also found the same data.

    Raises:
        ValueError, RuntimeError: As ``TargetLoader``, the ranks found different data, or another rank failed.
    """
    if ranks is None:
        return TargetLoader(loader, seed, num_batches)
    rank, world_size = torch.distributed.get_rank(), ranks.world_size
    made = ranks.together(lambda: TargetLoader(loader, seed, num_batches, rank, world_size))
    images = all_gather_object(made.num_images)
    if len(set(images)) > 1:
        raise ValueError(
            f'The ranks found {images} training images, so their shares would not fit together. Give every node the '
            'same files: see data_root and ann_file of train_dataloader.dataset.')
    return made


class ModelForward:
    """The part of a model that holds some layers, as a function of a mini-batch from the training loader.

    Layers of the backbone and neck alone need only ``extract_feat``: the decoder does not run. Others need the whole
    training forward, which unlike ``mode='tensor'`` reaches auxiliary heads.

    Args:
        model: The model, without a distributed wrapper.
        layer_names: Full names of the layers that have to be reached.
    """

    def __init__(self, model: BaseModel, layer_names: Iterable[str]) -> None:
        self.model = model
        self.features_only = hasattr(model, 'extract_feat') and all(
            name.split('.')[0] in ('backbone', 'neck') for name in layer_names)

    def prepare(self, batch: Any) -> Any:
        """Move a batch to the model's device, normalize and stack it, as training does.

        Raises:
            ValueError: An image holds NaN or infinite values.
        """
        data = self.model.data_preprocessor(batch, True)
        inputs, samples = _parts(data)
        finite = torch.isfinite(inputs).flatten(1).all(1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            path = getattr(samples[bad], 'img_path', None) if samples else None
            raise ValueError(
                f'The training image {path or f"number {bad} of a mini-batch"} holds NaN or infinite values after '
                'the training pipeline and the data preprocessor. Repair or remove the file, or fix the transform.')
        return data

    def run(self, data: Any, mode: str = 'loss') -> Any:
        """Return the features, or where layers lie outside the extractor, what training computes in a ``mode``."""
        if self.features_only:
            return self.model.extract_feat(_parts(data)[0])
        return self.model._run_forward(data, mode=mode)


def training_precision(runner: Runner) -> AbstractContextManager[Any]:
    """Return the autocast context of the training, if any."""
    wrapper = runner.optim_wrapper
    return wrapper.optim_context(runner.model) if isinstance(wrapper, OptimWrapper) else nullcontext()


def _parts(data: Any) -> tuple[Tensor, Any]:
    if isinstance(data, dict):
        return data['inputs'], data.get('data_samples')
    return data[0], data[1] if len(data) > 1 else None


def inner_datasets(dataset: Any) -> list[Any]:
    """Return the data sets inside ConcatDataset, RepeatDataset and the like, or their configs; a plain one has none."""
    def part(name: str) -> Any:
        return dataset.get(name) if isinstance(dataset, dict) else getattr(dataset, name, None)

    return list(part('datasets') or filter(None, [part('dataset')]))


def leaf_datasets(dataset: Any) -> list[Any]:
    """Return the plain data sets inside nested wrappers, or the configs of them; a plain one itself."""
    return [leaf for part in inner_datasets(dataset) for leaf in leaf_datasets(part)] or [dataset]


def describe_dataset(dataset: Any) -> str:
    """Return the data set's class, length and place in a few words."""
    if parts := inner_datasets(dataset):
        return f'{type(dataset).__name__}[{", ".join(map(describe_dataset, parts))}]'
    prefix = getattr(dataset, 'data_prefix', None)
    places = (getattr(dataset, 'ann_file', None), prefix.get('img_path') if isinstance(prefix, dict) else prefix,
              getattr(dataset, 'data_root', None))
    return f'{type(dataset).__name__}({len(dataset)} images, {next(filter(None, places), "place unknown")})'
