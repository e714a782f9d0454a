"""Models that ``torch.compile`` compiled, as a whole or in parts: their names, and calls without the compiler."""

import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile(model)``, with the names that are meant; any other as it is."""
    return getattr(model, '_orig_mod', model)


def without_compiler() -> AbstractContextManager[object]:
    """Run what is compiled as it is written: code that was compiled before calls no hooks that layers got since.

    With torch < 2.6, which cannot do that, the conversion refuses such a model, as no mini-batch reaches its layers.
    """
    used = 'torch._dynamo' in sys.modules  # else nothing is compiled; importing it takes seconds
    return torch.compiler.set_stance('force_eager') if used and hasattr(torch.compiler, 'set_stance') else nullcontext()
