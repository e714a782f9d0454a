"""What to do next, given what is on disk: a pure function, so that a sweep can be interrupted anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from mmseg_daft.sweep.protocol import RATES, Step
from mmseg_daft.sweep.run import REPORT, Run
from mmseg_daft.sweep.sweep import Sweep


@dataclass(frozen=True)
class Seen:
    """What is known of a run.

    Attributes:
        value: The metric of its final model, ``None`` before it has ended or where it diverged.
        diverged: Its loss became NaN or infinite. That is a result.
        failures: How often it ended without one.
        active: It is running, or waits in a queue.
    """

    value: float | None = None
    diverged: bool = False
    failures: int = 0
    active: bool = False

    @property
    def ended(self) -> bool:
        """Whether there is a result."""
        return self.diverged or self.value is not None


@dataclass
class Decision:
    """The next moves, and what led to them.

    Attributes:
        runs: All runs whose rates are known by now, in order.
        start: Those to start now.
        winners: The rates that won, by method and stage, with their score.
        blocked: Why a method cannot go on, by method.
        to_come: How many runs there will be at least whose rates are yet to be found.
    """

    runs: list[Run] = field(default_factory=list)
    start: list[Run] = field(default_factory=list)
    winners: dict[tuple[str, str], Run] = field(default_factory=dict)
    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    to_come: int = 0
    complete: bool = False


def decide(
    sweep: Sweep, seen: Mapping[str, Seen], max_failures: int = 2, accept_missing: bool = False,
) -> Decision:
    """Return what to start and what is known.

    The second step begins when the first has a result for every run; the reported runs when the last
    step has. A rate that diverges with any seed does not win. Of equal scores the larger rate wins, which is
    the first in the grid.

    Args:
        sweep: What is swept.
        seen: By run name; a run that is absent was never started.
        max_failures: A run that failed more often stays as it is, and blocks its method: choosing among the others
            would be another protocol.
        accept_missing: Choose among the others all the same.
    """
    decision, given_up = Decision(), set()
    for method in sweep.order():
        _decide_method(sweep, seen, method, decision, max_failures, accept_missing)
    for run in decision.runs:
        state = seen.get(run.name, Seen())
        if not state.ended and not state.active:
            if state.failures > max_failures:
                given_up.add(run.name)
            else:
                decision.start.append(run)
    ended = {run.name for run in decision.runs if seen.get(run.name, Seen()).ended}
    settled = {run.name for run in decision.runs} == ended | (given_up if accept_missing else set())
    decision.complete = settled and not decision.blocked and not decision.to_come
    return decision


def decide_by_looking(
    sweep: Sweep, look: Callable[[Run], Seen], max_failures: int = 2, accept_missing: bool = False,
) -> tuple[Decision, dict[str, Seen]]:
    """Look at the runs that there are and decide, until no run is new: results tell which runs there are."""
    seen: dict[str, Seen] = {}
    while True:
        decision = decide(sweep, seen, max_failures, accept_missing)
        unknown = [run for run in decision.runs if run.name not in seen]
        if not unknown:
            return decision, seen
        seen.update({run.name: look(run) for run in unknown})


def _decide_method(
    sweep: Sweep, seen: Mapping[str, Seen], method: str, decision: Decision, max_failures: int, accept_missing: bool,
) -> None:
    protocol = sweep.methods[method]
    rates, known = dict(protocol.fixed), []
    stages = [f'step{i + 1}' for i in range(len(protocol.steps))]
    remaining = [len(step.grid) * len(sweep.select_seeds) for step in protocol.steps] + [len(sweep.report_seeds)]

    def look(run: Run) -> Seen:
        return seen.get(run.name, Seen())

    def wait(position: int) -> None:
        decision.to_come += sum(remaining[position:])

    for position, (stage, step) in enumerate(zip(stages, protocol.steps, strict=True)):
        starts = _starts(sweep, method, seen, decision, sweep.select_seeds, selecting=True)
        if starts is None:
            return wait(position)
        runs = _runs_of_step(method, stage, step, rates, starts, {run.rates for run in known})
        decision.runs += runs
        known += runs
        failed = [run.name for run in runs if not look(run).ended and look(run).failures > max_failures]
        if failed and not accept_missing:
            decision.blocked[method] = _failed_too_often(stage, failed, max_failures)
            return wait(position + 1)
        if any(not look(run).ended and run.name not in failed for run in runs):
            return wait(position + 1)
        winner, score = _best(known, seen)
        if winner is None:
            decision.blocked[method] = f'{stage}: every rate diverged or failed; give smaller ones by --grid'
            return wait(position + 1)
        decision.winners[method, stage], decision.scores[method, stage] = winner, score
        rates = dict(zip(RATES, winner.rates, strict=True))
    starts = _starts(sweep, method, seen, decision, sweep.report_seeds, selecting=False)
    if starts is None:
        return wait(len(stages))
    reported = [Run(method, REPORT, rates['backbone_lr'], rates['head_lr'], seed, start)
                for seed, start in starts.items()]
    decision.runs += reported
    failed = [run.name for run in reported if not look(run).ended and look(run).failures > max_failures]
    if failed and not accept_missing:
        decision.blocked[method] = _failed_too_often(REPORT, failed, max_failures)
    return None


def _failed_too_often(stage: str, names: list[str], max_failures: int) -> str:
    return f'{stage}: failed more than {max_failures} times: {", ".join(names)}'


def _starts(
    sweep: Sweep, method: str, seen: Mapping[str, Seen], decision: Decision, seeds: tuple[int, ...], selecting: bool,
) -> dict[int, Run | None] | None:
    """Return by seed the run that a run starts from; None while that is to come, or where it has no model."""
    base = sweep.methods[method].starts_from
    if base is None:
        return dict.fromkeys(seeds)
    last = f'step{len(sweep.methods[base].steps)}'
    winner = decision.winners.get((base, last))
    if winner is None:
        if base in decision.blocked:
            decision.blocked[method] = f'waits for {base}'
        return None
    starts = {run.seed: run for run in decision.runs if run.method == base and run.rates == winner.rates
              and (run.stage == REPORT) != selecting}
    for seed in seeds:
        state = seen.get(starts[seed].name, Seen()) if seed in starts else Seen()
        if state.diverged:
            decision.blocked[method] = f'starts from {starts[seed].name}, which diverged'
        if state.value is None:
            if base in decision.blocked:
                decision.blocked[method] = f'waits for {base}'
            return None
    return {seed: starts[seed] for seed in seeds}


def _runs_of_step(
    method: str, stage: str, step: Step, rates: Mapping[str, float], starts: Mapping[int, Run | None],
    known: set[tuple[float, float]],
) -> list[Run]:
    points = [{**rates, **dict.fromkeys(step.rates, value)} for value in step.grid]
    return [Run(method, stage, point['backbone_lr'], point['head_lr'], seed, start) for point in points
            if (point['backbone_lr'], point['head_lr']) not in known for seed, start in starts.items()]


def _best(runs: list[Run], seen: Mapping[str, Seen]) -> tuple[Run | None, float]:
    """Return the first run of the rates with the largest mean over seeds."""
    scores: dict[tuple[float, float], float] = {}
    for rates in dict.fromkeys(run.rates for run in runs):
        values = [seen.get(run.name, Seen()).value for run in runs if run.rates == rates]
        if all(value is not None for value in values):
            scores[rates] = fmean(values)
    if not scores:
        return None, float('nan')
    best = max(scores, key=scores.get)
    return next(run for run in runs if run.rates == best), scores[best]
