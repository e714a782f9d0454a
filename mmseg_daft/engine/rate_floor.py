"""A schedule's floor above a group's rate would raise the rate: refuse it before training.

``eta_min`` of MMEngine's poly and cosine schedules is one absolute number for all parameter groups.
With mmseg's usual ``eta_min=1e-4``, a group that starts at 1e-5 *climbs* to 1e-4 over the run
(MMEngine issue 1612 tells the same of cosine).
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.optim import BaseOptimWrapper, _ParamScheduler


def schedulers_of(optim_wrapper: BaseOptimWrapper) -> list[_ParamScheduler]:
    """Return the parameter schedulers that drive an optimizer wrapper.

    They hold the wrapper, but only the runner holds them, and an optimizer wrapper never meets the
    runner. So they are looked up among all live objects (some 50 ms, once per run).
    """
    # By type(): isinstance() asks every object for __class__, and lazy modules answer with warnings.
    return [o for o in gc.get_objects() if issubclass(type(o), _ParamScheduler) and o.optimizer is optim_wrapper]


def refuse_floor_above_rate(groups: Iterable[Mapping[str, Any]], schedulers: Iterable[_ParamScheduler]) -> None:
    """Check that no schedule lifts a group's learning rate to a floor above it.

    Args:
        groups: Parameter groups with ``name``, ``part`` and ``lr`` (``initial_lr`` once scheduled).
        schedulers: MMEngine's parameter schedulers; those without ``eta_min`` have no floor.

    Raises:
        ValueError: A floor lies above the rate of a group.
    """
    for scheduler in schedulers:
        floor = getattr(scheduler, 'eta_min', None) if scheduler.param_name == 'lr' else None
        for group in groups if floor else ():
            rate = group.get('initial_lr', group['lr'])
            if floor > rate:
                raise ValueError(
                    f'{type(scheduler).__name__} has eta_min={floor:g}, above {group["part"]}_lr={rate:g} (parameter '
                    f'group {group["name"]!r}): eta_min is absolute and shared by all groups, so this rate would '
                    f'climb to {floor:g} during training. Set eta_min=0 in param_scheduler.')
