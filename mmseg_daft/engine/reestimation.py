"""Re-estimate batch-norm statistics of a model whose weights are no single training's: averaged or interpolated ones.

Weights between those of two models have other features than either, so neither's running statistics fit, nor does a
mean of them (Izmailov et al., UAI 2018, section 3.2). The layers get those that training itself would normalize by.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.core.ranks import current_ranks
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.engine.training_data import ModelForward, target_loader


def reestimate_statistics(
    model: BaseModel,
    layers: Mapping[str, BatchNorm],
    dataloader: DataLoader,
    seed: int,
    num_batches: int | None = None,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Replace layers' running statistics by the means over the training data, each mini-batch normalized by its own.

    γ and β stay. As PyTorch's ``update_bn``, but dropout is off, each image counts once, and the loader and every
    random generator stay as they are. A layer that the training forward does not reach, or that keeps no statistics,
    stays as it is. With several ranks all have to call this; where layers are SyncBatchNorm, mini-batches that are one
    too few for a last round are left out.

    Args:
        model: The model, without a distributed wrapper; changed in place.
        layers: The layers, by full name: those that training normalized by mini-batch. For one that it had in eval
            mode, the statistics are part of the function.
        dataloader: The training loader.
        seed: Of shuffling and augmentation, the same on all ranks.
        num_batches: How many mini-batches to take, counted over all ranks; ``None`` for all.
        precision: Makes the autocast context of the training.

    Raises:
        ValueError: There are too few mini-batches, or a value is NaN or infinite. The layers are as they were.
        RuntimeError: Another rank failed.
    """
    layers = {name: layer for name, layer in layers.items() if layer.running_mean is not None}
    if not layers:
        return
    forward = ModelForward(model, layers)
    ranks = current_ranks(next(model.parameters()).device)

    def run(batch: Any) -> None:
        data = forward.prepare(batch)
        with precision():
            forward.run(data)

    with preserved_random_state():
        loader = target_loader(dataloader, seed, num_batches, ranks)
        if ranks and any(isinstance(layer, nn.SyncBatchNorm) for layer in layers.values()):
            whole = loader.num_batches - loader.num_batches % ranks.world_size
            loader = target_loader(dataloader, seed, whole, ranks)
        found = collect_statistics(model, layers, loader, run, by_batch=True, ranks=ranks)
    with torch.no_grad():
        for name, statistics in found.items():
            if statistics.num_batches:
                layers[name].running_mean.copy_(statistics.mean)
                layers[name].running_var.copy_(statistics.var)
