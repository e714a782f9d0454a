"""A few fixed images of the validation data, always the same, ready for the model."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor

from mmseg_daft.core.random_state import seed_everything


class FixedImages:
    """Images taken once from a data set, evenly spread over it, and kept as the pipeline leaves them.

    The global random generators are seeded meanwhile: call it where they are preserved.

    Args:
        dataset: Of mmseg, with the pipeline that the images go through.
        number: How many to take; all where it has fewer.

    Raises:
        ValueError: The data set is empty.
    """

    def __init__(self, dataset: Any, number: int) -> None:
        total = len(dataset)
        if not total:
            raise ValueError('The data set is empty, so there are no images to follow the features on. Check data_root '
                             'and data_prefix of val_dataloader.dataset.')
        seed_everything(0)
        number = min(number, total)
        self.samples = [dataset[i * total // number] for i in range(number)]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def nbytes(self) -> int:
        """The memory of their pixels."""
        return sum(sample['inputs'].numel() * sample['inputs'].element_size() for sample in self.samples)

    @torch.no_grad()
    def inputs(self, model: Any, number: int) -> Tensor:
        """Return the input ``(1, 3, H, W)`` that a model makes of one image."""
        return model.data_preprocessor(pseudo_collate([self.samples[number]]), False)['inputs']
