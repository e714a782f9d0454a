"""Run a model in test mode and give every module its own mode back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def test_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in test mode; restore each module's mode afterwards, also after an error.

    Modes are kept per module: a model may hold frozen parts that stay in test mode in training.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


test_mode.__test__ = False  # pytest takes functions by their name
