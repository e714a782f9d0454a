"""The paper's search as data, the runs that it is made of, and what to do next, given what is known of them.

Ha, Jeong, Lee, AAAI 2024: section "Integrated LP-FT" for the two steps, supplement "Hyperparameter Details" for the
grids. Those are the grids of its classification runs; the paper does not say what was swept for segmentation. The
grids per data set, and the released search, are those of the authors' files (hsh1108/DAFT at 7e53240).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

RATES = ('backbone_lr', 'head_lr')
REPORT = 'report'
UNCONVERTED = '-plain'
"""Ends the name of a stage that trains without the conversion that its method's config has."""
STATES = ('done', 'running', 'queued', 'to start', 'diverged', 'failed')


def rate_text(rate: float) -> str:
    """Return a rate as it is written everywhere: short, and read again the same number."""
    short = f'{rate:g}'
    return short if float(short) == rate else repr(rate)


@dataclass(frozen=True)
class Step:
    """One sweep over one of ``RATES``, or over both at once; the grid's values are from the largest.

    It trains as the method's config says; where not ``converted``, without its conversion and with the batch norm that
    this would convert in eval mode.
    """

    rates: tuple[str, ...]
    grid: tuple[float, ...]
    converted: bool = True


@dataclass(frozen=True)
class Protocol:
    """How a method's rates are found: in steps, each with the rates that won before."""

    steps: tuple[Step, ...]
    fixed: Mapping[str, float] = field(default_factory=dict)  # the rates that no step before has swept
    starts_from: str | None = None  # the method whose final model this one starts from

    @property
    def is_probe(self) -> bool:
        """Whether it is a logistic regression, which has no rates and finds its strength by itself."""
        return not self.steps[0].rates

    def stages(self) -> dict[str, Step]:
        """Return the steps by the names of their stages."""
        return {f'step{number}{"" if step.converted else UNCONVERTED}': step
                for number, step in enumerate(self.steps, start=1)}

    def tried(self) -> dict[str, tuple[float, ...]]:
        """Return the values that each stage trains: its grid's, but for one that the step before has held fixed."""
        known, values = None, {}
        for stage, step in self.stages().items():
            values[stage] = tuple(value for value in step.grid if {(rate, value) for rate in step.rates} != known)
            known = {*self.fixed.items()} if step.converted else None  # another training does not count
        return values


@dataclass(frozen=True)
class Run:
    """One training: a method at two rates with a seed.

    The stages of ``Protocol.stages`` train without the held-out images and are selected by them; ``REPORT`` trains on
    all images and is evaluated on the reported split.
    """

    method: str
    stage: str
    backbone_lr: float  # ηθ
    head_lr: float  # ηw
    seed: int
    start: Run | None = None  # the run whose final model this one starts from

    @property
    def rates(self) -> tuple[float, float]:
        """``backbone_lr`` and ``head_lr``."""
        return self.backbone_lr, self.head_lr

    @property
    def name(self) -> str:
        """The name of the run and of its folder, always the same for the same run."""
        start = f'_{self.start.method}-{rate_text(self.start.head_lr)}' if self.start else ''
        backbone, head = map(rate_text, self.rates)
        return f'{self.method}_{self.stage}_backbone-{backbone}_head-{head}{start}_seed-{self.seed}'


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    Raises:
        ValueError: A method starts from another that is not swept, a grid is empty, or a rate or a seed comes twice.
    """

    methods: Mapping[str, Protocol]
    select_seeds: tuple[int, ...] = (0,)  # a rate's score is the mean over these
    report_seeds: tuple[int, ...] = (0, 1, 2)  # of the runs at the rates that won
    metric: str = 'mIoU'  # as mmseg's evaluation names it; larger is better
    iterations: int = 30000  # of each run

    def __post_init__(self) -> None:
        for seeds in (self.select_seeds, self.report_seeds):
            if len(set(seeds)) != len(seeds):
                raise ValueError(f'The seeds {", ".join(map(str, seeds))} name one twice. Keep one of them.')
        for name, protocol in self.methods.items():
            base = protocol.starts_from
            if base not in (None, *self.methods):
                raise ValueError(f'{name} starts from the model of {base}, so name a config for {base}, too.')
            for step in protocol.steps:
                if len(set(step.grid)) != len(step.grid) or not step.grid:
                    raise ValueError(f'{name}: the grid {step.grid} is empty or names a rate twice.')

    def order(self) -> list[str]:
        """Return the methods such that each comes after the one that it starts from."""
        return sorted(self.methods, key=lambda name: self.methods[name].starts_from is not None)

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON; a step as before 0.2, where every one was converted, stays as it was."""
        content = asdict(self)
        for protocol in content['methods'].values():
            for step in protocol['steps']:
                if step['converted']:
                    del step['converted']
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Sweep:
        """Return the sweep from what ``to_json`` and JSON made of it."""
        methods = {name: Protocol(tuple(Step(tuple(step['rates']), tuple(step['grid']), step.get('converted', True))
                                        for step in protocol['steps']), protocol['fixed'], protocol['starts_from'])
                   for name, protocol in content['methods'].items()}
        return cls(methods, tuple(content['select_seeds']), tuple(content['report_seeds']), content['metric'],
                   content['iterations'])


PROBE = Protocol((Step((), (0.0,)),), dict.fromkeys(RATES, 0.0))
"""LP of a classifier: one run per seed."""
DAFT_FIXED_HEAD = 1.0
BASELINES = ('frozen-statistics', 'frozen-bn', 'l2-sp', 'spd', 'averaging', 'layer-decay', 'surgical', 'batch-renorm')
"""Methods that are not the paper's, each FT with one change (configs/baselines)."""
PAPER = {'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT', 'ft-conversion': 'FT + conversion',
         'lpft-conversion': 'LP-FT + conversion', 'integrated-lpft': 'integrated LP-FT',
         'two-rates': 'two rates', 'frozen-statistics': 'frozen statistics', 'frozen-bn': 'frozen batch norm',
         'l2-sp': 'L2-SP', 'spd': 'SPD', 'averaging': 'weight averaging', 'layer-decay': 'layer-wise decay',
         'surgical': 'surgical fine-tuning', 'batch-renorm': 'Batch Renormalization'}
"""The methods' names in the paper, in its order; those from two rates on are not in it."""
STARTS = ('moco', 'clip', 'swav')
SEARCHES = ('paper', 'released')
GRIDS: dict[str, dict[str, dict[str, list[float]]]] = json.loads(Path(__file__).with_name('grids.json').read_text())
"""Rates by data set (``'paper'`` for those of its text), start and ``NAME.STEP``; what is not here is the paper's."""


def protocols(
    start: str = 'moco', fixed_head: float = DAFT_FIXED_HEAD, search: str = 'paper', grids: str = 'paper',
    probe: bool = False,
) -> dict[str, Protocol]:
    """Return the protocol of every method that has configs here, by name.

    ``start`` is the pre-trained model and ``grids`` the data set, on both of which rates depend; ``fixed_head`` is the
    first step's ``head_lr``. ``search`` is the paper's, where all steps of a method train alike, or that of the
    authors' files: DAFT's first step trains without the conversion, as integrated LP-FT does, which has no second step
    there; and FT + conversion tries the rates of that first step. With ``probe``, LP is ``PROBE``.
    """
    parts = GRIDS['paper']['all'], GRIDS['paper'][start], GRIDS[grids][start]
    rates = {place: tuple(map(float, values)) for part in parts for place, values in part.items()}
    # Ours, for segmentation: the paper's linear probes are logistic regressions, without a rate.
    lp = PROBE if probe else Protocol((Step(('head_lr',), rates['lp.1']),), {'backbone_lr': 0.0})
    ft = Protocol((Step(RATES, rates['ft.1']),))
    lpft = Protocol((Step(RATES, rates['lpft.1']),), starts_from='lp')
    daft = Protocol((Step(('backbone_lr',), rates['daft.1']), Step(('head_lr',), rates['daft.2'])),
                    {'head_lr': fixed_head})
    known = {'lp': lp, 'ft': ft, 'lpft': lpft, 'daft': daft, 'ft-conversion': ft, 'lpft-conversion': lpft,
             'integrated-lpft': daft, 'two-rates': daft, **dict.fromkeys(BASELINES, ft)}
    if search == 'released':
        first, second = daft.steps
        known |= {'daft': replace(daft, steps=(replace(first, converted=False), second)),
                  'integrated-lpft': replace(daft, steps=(first,)),
                  'ft-conversion': Protocol((Step(RATES, first.grid),))}
    return known


@dataclass(frozen=True)
class Seen:
    """What is known of a run."""

    value: float | None = None  # the metric of its final model; None before it has ended or where it diverged
    diverged: bool = False  # its loss became NaN or infinite; that is a result
    failures: int = 0  # how often it ended without a result
    active: bool = False  # it is running, or waits in a queue
    running: bool = False

    @property
    def ended(self) -> bool:
        """Whether there is a result."""
        return self.diverged or self.value is not None

    @property
    def state(self) -> str:
        """One of ``STATES``."""
        if self.ended:
            return 'diverged' if self.diverged else 'done'
        if self.active:
            return 'running' if self.running else 'queued'
        return 'failed' if self.failures else 'to start'


@dataclass
class Decision:
    """The next moves, and what led to them."""

    seen: Mapping[str, Seen]  # by run name; a run that is absent was never started
    runs: list[Run] = field(default_factory=list)  # all whose rates are known by now, in order
    start: list[Run] = field(default_factory=list)  # those to start now
    winners: dict[tuple[str, str], Run] = field(default_factory=dict)  # who won, by method and stage
    blocked: dict[str, str] = field(default_factory=dict)  # why a method cannot go on
    to_come: int = 0  # how many runs there will be whose rates are yet to be found
    rivals: dict[tuple[str, str], list[Run]] = field(default_factory=dict)  # of whom one wins, by method and stage
    without_start: dict[str, list[Run]] = field(default_factory=dict)  # whose model a method lacks, which is accepted
    complete: bool = False  # nothing is left to do

    def look(self, run: Run) -> Seen:
        """Return what is known of a run."""
        return self.seen.get(run.name, Seen())

    def values(self, runs: list[Run]) -> dict[tuple[float, float], list[float | None]]:
        """Return what runs with the same rates came to, by rates."""
        values: dict[tuple[float, float], list[float | None]] = {}
        for run in runs:
            values.setdefault(run.rates, []).append(self.look(run).value)
        return values


def decide(sweep: Sweep, seen: Mapping[str, Seen], max_failures: int = 2, accept_missing: bool = False) -> Decision:
    """Return what to start and what is known: a pure function, so that a sweep can be interrupted anywhere.

    The second step begins when the first has a result for every run; the reported runs when the last step has. A rate
    that diverges with any seed does not win. Of equal scores the larger rate wins, which is the first in the grid.

    Args:
        sweep: What is swept.
        seen: As in ``Decision``.
        max_failures: A run that failed more often is given up, and blocks its method: choosing among the others
            would be another protocol.
        accept_missing: Choose among the others all the same, and report the seeds whose start there is.
    """
    decision = Decision(seen)
    deciding = _Deciding(sweep, max_failures, accept_missing, decision)
    for method in sweep.order():
        deciding.add_runs(method)
    decision.start = [run for run in decision.runs
                      if decision.look(run).state in ('to start', 'failed') and not deciding.gave_up(run)]
    active = any(decision.look(run).active for run in decision.runs)
    decision.complete = not (active or decision.start or decision.blocked or decision.to_come)
    return decision


def decide_by_looking(
    sweep: Sweep, look: Callable[[Run], Seen], max_failures: int = 2, accept_missing: bool = False,
) -> Decision:
    """Look at the runs that there are and decide, until no run is new: results tell which runs there are."""
    seen: dict[str, Seen] = {}
    while True:
        decision = decide(sweep, seen, max_failures, accept_missing)
        unknown = [run for run in decision.runs if run.name not in seen]
        if not unknown:
            return decision
        seen.update({run.name: look(run) for run in unknown})


@dataclass
class _Deciding:
    sweep: Sweep
    max_failures: int
    accept_missing: bool
    decision: Decision

    def gave_up(self, run: Run) -> bool:
        seen = self.decision.look(run)
        return not seen.ended and seen.failures > self.max_failures

    def add_runs(self, method: str) -> None:
        """Add the runs of a method's stages until there is one whose rates are not known yet."""
        protocol, decision = self.sweep.methods[method], self.decision
        tried = {**protocol.tried(), REPORT: (0,)}  # one point: the rates that won
        stages = [(stage, step, self.sweep.select_seeds) for stage, step in protocol.stages().items()]
        stages.append((REPORT, Step((), tried[REPORT]), self.sweep.report_seeds))
        decision.to_come += sum(len(tried[stage]) * len(seeds) for stage, _, seeds in stages)
        rates, known = dict(protocol.fixed), []
        for stage, step, seeds in stages:
            starts = self.starts(method, stage, seeds)
            if starts is None:
                return
            decision.to_come -= len(tried[stage]) * len(seeds)
            points = [{**rates, **dict.fromkeys(step.rates, value)} for value in tried[stage]]
            runs = [Run(method, stage, seed=seed, start=start, **point)
                    for point in points for seed, start in starts.items()]
            decision.runs += runs
            known = decision.rivals[method, stage] = known + runs
            gave_up = [run for run in runs if self.gave_up(run)]
            if gave_up and not self.accept_missing:
                names = ', '.join(run.name for run in gave_up)
                decision.blocked[method] = f'{stage}: failed more than {self.max_failures} times: {names}'
                return
            if stage == REPORT or any(not decision.look(run).ended and run not in gave_up for run in runs):
                return
            # The mean over the seeds, of the rates whose runs all have a value.
            scores = {pair: fmean(values) for pair, values in decision.values(known).items() if None not in values}
            if not scores:
                decision.blocked[method] = f'{stage}: every rate diverged or failed; give smaller ones by --grid'
                return
            best = max(scores, key=scores.get)
            decision.winners[method, stage] = next(run for run in known if run.rates == best)
            rates = dict(zip(RATES, best, strict=True))
            known = known if step.converted else []  # another training does not compete with the steps that follow

    def starts(self, method: str, stage: str, seeds: tuple[int, ...]) -> dict[int, Run | None] | None:
        """Return by seed the run that a run starts from, ``None`` while one of them has no model.

        With ``accept_missing``, what has come to an end without a model is left out.
        """
        base, decision = self.sweep.methods[method].starts_from, self.decision
        if base is None:
            return dict.fromkeys(seeds)
        winner = decision.winners.get((base, [*self.sweep.methods[base].stages()][-1]))
        runs = {run.seed: run for run in decision.runs if winner and run.method == base and run.rates == winner.rates
                and (run.stage == REPORT) == (stage == REPORT)}
        lost = [runs[seed] for seed in seeds if seed in runs
                and (decision.look(runs[seed]).diverged or self.gave_up(runs[seed]))]
        if lost and not (self.accept_missing and len(lost) < len(seeds)):
            decision.blocked[method] = f'starts from {", ".join(run.name for run in lost)}, which diverged or failed'
            return None
        if lost:
            decision.without_start[method] = lost
        starts = {seed: runs.get(seed) for seed in seeds if runs.get(seed) not in lost}
        if any(run is None or decision.look(run).value is None for run in starts.values()):
            decision.to_come -= len(lost)
            if base in decision.blocked:
                decision.blocked[method] = f'waits for {base}'
            return None
        return starts
