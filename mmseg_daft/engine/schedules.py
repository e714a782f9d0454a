"""Schedules that would make a run another one than its config says, found before the first iteration."""

from collections.abc import Iterable, Mapping, Sequence
from math import isclose
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.optim import _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop


def refuse_floor_above_rate(groups: Iterable[Mapping[str, Any]], schedulers: Iterable[_ParamScheduler]) -> None:
    """Check that no schedule lifts a group's learning rate to a floor above it.

    ``eta_min`` of MMEngine's poly and cosine schedules is one absolute number for all parameter groups. With mmseg's
    usual 1e-4, a group that starts at 1e-5 *climbs* to 1e-4 over the run (MMEngine issue 1612).

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


def refuse_overwritten_rates(
    groups: Sequence[Mapping[str, Any]], schedulers: Sequence[_ParamScheduler], rates: Mapping[str, float],
    scaled: bool = False,
) -> None:
    """Check that the schedules, once built, left each part the rate that it was given, or one share of it (a warm-up).

    MMEngine's ``OneCycleLR`` sets one peak for all groups.

    Args:
        groups: The parameter groups, each with its ``part``.
        schedulers: All schedules, for their names.
        rates: What each part was given.
        scaled: Whether MMEngine multiplied all rates by one number before (``auto_scale_lr``).

    Raises:
        ValueError: A rate is another, or the parts start at different shares of theirs.
    """
    base, now = ({g['part']: g.get(key, g['lr']) for g in groups} for key in ('initial_lr', 'lr'))
    factors = [(base[part] / rates[part], now[part] / rates[part]) for part in base if rates[part]]
    alike = all(isclose(b, factors[0][1], rel_tol=1e-6) and b <= a * (1 + 1e-6) for a, b in factors)
    if _are(base, rates, scaled) and alike and not any(now[part] for part in now if not rates[part]):
        return
    changes = ', '.join(f'{part}_lr={rates[part]:g} starts at {now[part]:g}' for part in now)
    names = ', '.join(dict.fromkeys(type(scheduler).__name__ for scheduler in schedulers))
    raise ValueError(
        f'param_scheduler ({names}) replaces the rates of paramwise_cfg: {changes}. Use schedules that multiply both '
        'rates by one factor, such as PolyLR, CosineAnnealingLR or MultiStepLR, with LinearLR before for a warm-up.')


def refuse_changed_rates(groups: Sequence[Mapping[str, Any]], rates: Mapping[str, float], scaled: bool = False) -> None:
    """Check that a resumed run goes on with the rates that its config has: MMEngine takes them from the checkpoint.

    Arguments as in ``refuse_overwritten_rates``.

    Raises:
        ValueError: The config has others.
    """
    before = {g['part']: g.get('initial_lr', g['lr']) for g in groups}
    if not _are(before, rates, scaled):
        changes = ', '.join(f'{part}_lr={rates[part]:g} (it was {before[part]:g})' for part in before)
        raise ValueError(f'A resumed run goes on with the rates of its checkpoint, so {changes} would have no effect. '
                         'Set them back to go on, or train in another work_dir, from the weights alone (load_from).')


def _are(base: Mapping[str, float], rates: Mapping[str, float], scaled: bool) -> bool:
    """Return whether the parts' rates are those that were asked for, or, if ``scaled``, one multiple of all."""
    factors = [base[part] / rates[part] for part in base if rates[part]]
    return (all(isclose(factor, factors[0] if scaled else 1, rel_tol=1e-6) for factor in factors)
            and not any(base[part] for part in base if not rates[part]))


def refuse_standstill(loop: type, sampler: type, schedulers: Iterable[_ParamScheduler]) -> None:
    """Check that the schedules step in the training loop, and that an epoch, where the loop counts these, ends.

    Args:
        loop, sampler: The classes of the training loop and of the sampler of its data.
        schedulers: All schedules, those that are converted to iterations already so.

    Raises:
        ValueError: A schedule never steps, or an epoch never ends.
    """
    if issubclass(loop, EpochBasedTrainLoop) and issubclass(sampler, InfiniteSampler):
        raise ValueError(f'{loop.__name__} waits for the end of an epoch, and {sampler.__name__} never ends one. Use '
                         "train_dataloader.sampler=dict(type='DefaultSampler', shuffle=True), or an "
                         'IterBasedTrainLoop with max_iters.')
    for scheduler in schedulers:
        waits = issubclass(loop, IterBasedTrainLoop) and scheduler.by_epoch
        if waits and not getattr(scheduler, 'need_val_args', False):
            raise ValueError(f'{type(scheduler).__name__} counts epochs (by_epoch is True by default), and '
                             f'{loop.__name__} counts iterations: the {scheduler.param_name} would never change. Set '
                             'by_epoch=False in param_scheduler, with begin and end in iterations.')
