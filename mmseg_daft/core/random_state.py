"""Draw random numbers without disturbing the global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore every global random generator at the end: Python's, NumPy's, PyTorch's on CPU and GPUs."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


def seed_everything(seed: int) -> None:
    """Seed every global random generator with a number between 0 and 2**32 - 1."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_everything_by(*numbers: int) -> None:
    """Seed every global random generator with a hash of non-negative numbers.

    So that randomness is a function of what something *is* (a seed and an image's index, a seed and an iteration)
    rather than of what happened before it.
    """
    seed_everything(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
