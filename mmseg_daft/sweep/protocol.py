"""The paper's search as data: which rate of which method takes which values, and the runs that a sweep is made of.

Ha, Jeong, Lee, AAAI 2024: section "Integrated LP-FT" for the two steps, supplement "Hyperparameter Details" for the
grids. Those are the grids of its classification runs; the paper does not say what was swept for segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RATES = ('backbone_lr', 'head_lr')
REPORT = 'report'


@dataclass(frozen=True)
class Step:
    """One sweep over one of ``RATES``, or over both at once; the grid's values are from the largest."""

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


@dataclass(frozen=True)
class Run:
    """One training: a method at two rates with a seed.

    Attributes:
        method: As in ``protocols()``.
        stage: ``'step1'``, ``'step2'``, … train without the held-out images and are selected by them;
            ``REPORT`` trains on all images and is evaluated on the reported split.
        backbone_lr: ηθ.
        head_lr: ηw.
        seed: Of the run.
        start: The run whose final model this one starts from, if any.
    """

    method: str
    stage: str
    backbone_lr: float
    head_lr: float
    seed: int
    start: Run | None = None

    @property
    def rates(self) -> tuple[float, float]:
        """``backbone_lr`` and ``head_lr``."""
        return self.backbone_lr, self.head_lr

    @property
    def name(self) -> str:
        """The name of the run and of its folder, always the same for the same run."""
        start = f'_{self.start.method}-{self.start.head_lr:g}' if self.start else ''
        return f'{self.method}_{self.stage}_backbone-{self.backbone_lr:g}_head-{self.head_lr:g}{start}_seed-{self.seed}'


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    Attributes:
        methods: Protocols by method.
        select_seeds: The seeds of the runs that select; a rate's score is the mean over them.
        report_seeds: The seeds of the runs that are reported, at the rates that won.
        metric: The name in mmseg's evaluation; larger is better.
        iterations: How long each run trains.

    Raises:
        ValueError: A method starts from another that is not swept, or a grid is empty or names a rate twice.
    """

    methods: Mapping[str, Protocol]
    select_seeds: tuple[int, ...] = (0,)
    report_seeds: tuple[int, ...] = (0, 1, 2)
    metric: str = 'mIoU'
    iterations: int = 30000

    def __post_init__(self) -> None:
        for name, protocol in self.methods.items():
            if protocol.starts_from not in (None, *self.methods):
                base = protocol.starts_from
                raise ValueError(f'{name} starts from the model of {base}, so name a config for {base}, too.')
            for step in protocol.steps:
                if len(set(step.grid)) != len(step.grid) or not step.grid:
                    raise ValueError(f'{name}: the grid {step.grid} is empty or names a rate twice.')

    def order(self) -> list[str]:
        """Return the methods such that each comes after the one that it starts from."""
        return sorted(self.methods, key=lambda name: self.methods[name].starts_from is not None)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Sweep:
        """Return the sweep from what ``dataclasses.asdict`` and JSON made of it."""
        methods = {name: Protocol(tuple(Step(tuple(step['rates']), tuple(step['grid'])) for step in protocol['steps']),
                                  protocol['fixed'], protocol['starts_from'])
                   for name, protocol in content['methods'].items()}
        return cls(methods, tuple(content['select_seeds']), tuple(content['report_seeds']), content['metric'],
                   content['iterations'])


FT_GRID = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
DAFT_BACKBONE_GRID = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
DAFT_HEAD_GRID = (10.0, 3.0, 0.3, 0.1)  # 1.0 is known from the first step
DAFT_FIXED_HEAD = 1.0
LPFT_GRIDS = dict.fromkeys(('moco', 'clip'), (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7))
LPFT_GRIDS['swav'] = (0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
LP_GRID = (10.0, 3.0, 1.0, 0.3, 0.1)
"""Ours: the paper's linear probes are logistic regressions, without a rate."""


def protocols(start: str = 'moco') -> dict[str, Protocol]:
    """Return the protocol of every method that has configs here, by name.

    Args:
        start: The pre-trained model, whose LP-FT has a grid of its own: ``'moco'``, ``'clip'`` or ``'swav'``.
    """
    one_rate = Protocol((Step(RATES, FT_GRID),))
    two_rates = Protocol((Step(('backbone_lr',), DAFT_BACKBONE_GRID), Step(('head_lr',), DAFT_HEAD_GRID)),
                         {'head_lr': DAFT_FIXED_HEAD})
    second_stage = Protocol((Step(RATES, LPFT_GRIDS[start]),), starts_from='lp')
    return {
        'lp': Protocol((Step(('head_lr',), LP_GRID),), {'backbone_lr': 0.0}),
        'ft': one_rate,
        'lpft': second_stage,
        'daft': two_rates,
        'ft-conversion': one_rate,
        'lpft-conversion': second_stage,
        'integrated-lpft': two_rates}
