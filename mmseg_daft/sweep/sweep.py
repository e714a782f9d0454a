"""A whole sweep as data, and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mmseg_daft.sweep.protocol import Protocol, Step


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    Attributes:
        methods: Protocols by method.
        select_seeds: The seeds of the runs that select; a rate's score is the mean over them.
        report_seeds: The seeds of the runs that are reported, at the rates that won.
        metric: The name in mmseg's evaluation; larger is better.
        iterations: How long each run trains.
    """

    methods: Mapping[str, Protocol]
    select_seeds: tuple[int, ...] = (0,)
    report_seeds: tuple[int, ...] = (0, 1, 2)
    metric: str = 'mIoU'
    iterations: int = 30000

    def __post_init__(self) -> None:
        for name, protocol in self.methods.items():
            base = protocol.starts_from
            if base is not None and base not in self.methods:
                raise ValueError(f'{name} starts from the model of {base}, so name a config for {base}, too.')
            if base is not None and not {*self.select_seeds, *self.report_seeds} <= {*self.seeds_of(base)}:
                raise ValueError(f'{name} starts from runs of {base} with the same seeds.')
            for step in protocol.steps:
                if len(set(step.grid)) != len(step.grid) or not step.grid:
                    raise ValueError(f'{name}: the grid {step.grid} is empty or names a rate twice.')

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """Return all seeds of a method's runs."""
        return tuple(sorted({*self.select_seeds, *self.report_seeds}))

    def order(self) -> list[str]:
        """Return the methods such that each comes after the one that it starts from."""
        return sorted(self.methods, key=lambda name: self.methods[name].starts_from is not None)

    def to_json(self) -> str:
        """Return the sweep as text."""
        return json.dumps(asdict(self), indent=1) + '\n'

    @classmethod
    def from_json(cls, text: str) -> Sweep:
        """Return the sweep that ``to_json`` wrote."""
        content = json.loads(text)
        methods = {
            name: Protocol(tuple(Step(tuple(s['rates']), tuple(s['grid'])) for s in protocol['steps']),
                           protocol['fixed'], protocol['starts_from'])
            for name, protocol in content.pop('methods').items()}
        seeds = {key: tuple(content.pop(key)) for key in ('select_seeds', 'report_seeds')}
        return cls(methods, **seeds, **content)
