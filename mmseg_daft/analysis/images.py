"""The images of an analysis: a split of the config's data, each with its number and, if there is one, ground truth."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmseg.registry import DATASETS
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset, Subset

from mmseg_daft.analysis.meter import VOID
from mmseg_daft.engine.configs import type_name
from mmseg_daft.engine.training_data import leaf_datasets


@dataclass(frozen=True)
class Images:
    """The data set of an analysis.

    Attributes:
        dataset: mmseg's.
        names: A short name of each image.
        labeled: Whether there is ground truth.
        classes: Names of the classes.
        palette: RGB of each class.
    """

    dataset: Any
    names: Sequence[str]
    labeled: bool
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]

    def batches(self, numbers: Sequence[int], batch_size: int, workers: int) -> DataLoader:
        """Return a loader of lists of (number, sample)."""
        samples = StackDataset(numbers, Subset(self.dataset, numbers))
        return DataLoader(samples, batch_size, num_workers=workers, collate_fn=list)


def of_one_size(batch: Sequence[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """Take a batch apart into images of one size each: mmseg stacks no others in a test."""
    groups: dict[tuple[int, ...], list[tuple[int, Any]]] = defaultdict(list)
    for number, sample in batch:
        groups[tuple(sample['inputs'].shape)].append((number, sample))
    yield from groups.values()


def open_images(cfg: Config, split: str) -> Images:
    """Open a split with the pipeline of the validation, without ground truth where the files have none.

    Raises:
        ValueError: The config has no such split, or it is empty.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        splits = [name for name in ('train', 'val', 'test') if cfg.get(f'{name}_dataloader')]
        raise ValueError(f'The config has no {split}_dataloader; --split can be {" or ".join(splits)}.')
    dataset_cfg = copy.deepcopy(loader.dataset)
    if split == 'train':
        pipeline = leaf_datasets((cfg.get('val_dataloader') or cfg.test_dataloader).dataset)[0].pipeline
        for part in leaf_datasets(dataset_cfg):
            part.pipeline = copy.deepcopy(pipeline)
    dataset = DATASETS.build(dataset_cfg)
    if not len(dataset):
        raise ValueError(f'{split}_dataloader.dataset is empty. Check its data_root, ann_file, data_prefix, img_suffix '
                         'and seg_map_suffix.')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    labeled = all(info.get('seg_map_path') and Path(info['seg_map_path']).is_file() for info in infos)
    if not labeled:
        for part in leaf_datasets(dataset_cfg):
            part.pipeline = [step for step in part.pipeline if type_name(step) != 'LoadAnnotations']
        dataset = DATASETS.build(dataset_cfg)
    paths = [Path(info['img_path']) for info in infos]
    times = Counter(path.name for path in paths)
    names = [path.name if times[path.name] == 1 else f'{path.parent.name}/{path.name}' for path in paths]
    return Images(dataset, names, labeled, tuple(dataset.metainfo.get('classes') or ()),
                  dataset.metainfo.get('palette') or ())


def at_positions(
    samples: Sequence[Any], inputs: tuple[int, int], positions: tuple[int, int], labeled: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return what lies at the middle of each position of a map: the ground truth, and whether it is the image.

    Args:
        samples: mmseg's data samples; ground truth has the size of the image, before or after resizing.
        inputs: Height and width of the model's input, which may be padded at its right and bottom.
        positions: Height and width of the map.
        labeled: Whether there is ground truth.

    Returns:
        Class ids ``(N, *positions)``, ``VOID`` in the padding, or ``None`` without ground truth; and a mask of the same
        shape, or ``None`` if nothing was padded.
    """
    sizes = [tuple(sample.metainfo['img_shape'][:2]) for sample in samples]
    labels = valid = None
    if labeled:
        labels = torch.stack([_shrunk(sample.gt_sem_seg.data[0], size, inputs, positions)
                              for sample, size in zip(samples, sizes, strict=True)])
    if any(size != inputs for size in sizes):
        valid = torch.stack([_shrunk(torch.zeros(1, 1), size, inputs, positions) != VOID for size in sizes])
    return labels, valid


def _shrunk(labels: Tensor, size: tuple[int, int], inputs: tuple[int, int], positions: tuple[int, int]) -> Tensor:
    labels = F.interpolate(labels[None, None].float(), size=size, mode='nearest-exact')
    labels = F.pad(labels, (0, inputs[1] - size[1], 0, inputs[0] - size[0]), value=VOID)
    return F.interpolate(labels, size=positions, mode='nearest-exact')[0, 0].long()
