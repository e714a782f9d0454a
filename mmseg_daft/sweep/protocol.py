"""The paper's sweeps as data: which rate of which method takes which values, in which order.

Ha, Jeong, Lee, AAAI 2024: section "Integrated LP-FT" for the two steps, supplement "Hyperparameter Details" for
the grids. Those are the grids of its classification runs; of segmentation it does not say which were swept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RATES = ('backbone_lr', 'head_lr')


@dataclass(frozen=True)
class Step:
    """One sweep over one rate.

    Attributes:
        rates: The rates that take the grid's value: one of ``RATES``, or both.
        grid: The values, from the largest.
    """

    rates: tuple[str, ...]
    grid: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """How a method's rates are found.

    Attributes:
        steps: One after the other, each with the rates that won before.
        fixed: The rates that no step before has swept.
        starts_from: The method whose final model this one starts from.
    """

    steps: tuple[Step, ...]
    fixed: Mapping[str, float] = field(default_factory=dict)
    starts_from: str | None = None


def decades(largest: float, count: int) -> tuple[float, ...]:
    """Return a logarithmic grid of factors near 3, downwards: 0.3, 0.1, 0.03, … or 0.1, 0.03, 0.01, …"""
    digits, exponent = (int(part) for part in f'{largest:e}'.replace('.000000', '').split('e'))
    values = []
    for _ in range(count):
        values.append(float(f'{digits}e{exponent}'))
        digits, exponent = (1, exponent) if digits == 3 else (3, exponent - 1)
    return tuple(values)


BOTH = RATES
FT_GRID = decades(0.3, 8)
DAFT_BACKBONE_GRID = decades(0.1, 10)
DAFT_HEAD_GRID = (10.0, 3.0, 0.3, 0.1)  # 1.0 is known from the first step
DAFT_FIXED_HEAD = 1.0
LPFT_GRIDS = {'moco': decades(1e-4, 6), 'clip': decades(1e-4, 6), 'swav': decades(0.01, 8)}
LP_GRID = (10.0, 3.0, 1.0, 0.3, 0.1)
"""Ours: the paper's linear probes are logistic regressions, without a rate."""


def protocols(start: str = 'moco') -> dict[str, Protocol]:
    """Return the protocol of every method that has configs here, by name.

    Args:
        start: The pre-trained model, whose LP-FT has a grid of its own: ``'moco'``, ``'clip'`` or ``'swav'``.
    """
    one_rate = Protocol((Step(BOTH, FT_GRID),))
    two_rates = Protocol((Step(('backbone_lr',), DAFT_BACKBONE_GRID), Step(('head_lr',), DAFT_HEAD_GRID)),
                         {'head_lr': DAFT_FIXED_HEAD})
    second_stage = Protocol((Step(BOTH, LPFT_GRIDS[start]),), starts_from='lp')
    return {
        'lp': Protocol((Step(('head_lr',), LP_GRID),), {'backbone_lr': 0.0}),
        'ft': one_rate,
        'lpft': second_stage,
        'daft': two_rates,
        'ft-conversion': one_rate,
        'lpft-conversion': second_stage,
        'integrated-lpft': two_rates}
