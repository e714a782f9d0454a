"""The model that a run began with, built again from its config: a resumed run no longer has it."""

from __future__ import annotations

import copy

from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint


def pretrained_model(cfg: Config, load_from: str | None) -> BaseModel:
    """Build a config's model, on the CPU, with the weights that training begins with.

    It draws random numbers, for the layers that no file fills: call it where they are preserved.

    Args:
        cfg: The config.
        load_from: The checkpoint that was loaded on top of ``init_cfg``, or ``None``.
    """
    model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    model.init_weights()
    if load_from:
        load_checkpoint(model, load_from, map_location='cpu', logger='silent')
    return model
