"""What to do next, given what is on disk: a pure function, so that a sweep can be interrupted anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from mmseg_daft.sweep.protocol import RATES, REPORT, Run, Sweep

STATES = ('done', 'running', 'queued', 'to start', 'diverged', 'failed')


@dataclass(frozen=True)
class Seen:
    """What is known of a run.

    Attributes:
        value: The metric of its final model, ``None`` before it has ended or where it diverged.
        diverged: Its loss became NaN or infinite. That is a result.
        failures: How often it ended without one.
        active: It is running, or waits in a queue.
        running: It is running.
    """

    value: float | None = None
    diverged: bool = False
    failures: int = 0
    active: bool = False
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
    """The next moves, and what led to them.

    Attributes:
        seen: What is known, by run name; a run that is absent was never started.
        runs: All runs whose rates are known by now, in order.
        start: Those to start now.
        winners: The run whose rates won, by method and stage.
        blocked: Why a method cannot go on, by method.
        to_come: How many runs there will be whose rates are yet to be found.
        complete: Nothing is left to do.
    """

    seen: Mapping[str, Seen]
    runs: list[Run] = field(default_factory=list)
    start: list[Run] = field(default_factory=list)
    winners: dict[tuple[str, str], Run] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    to_come: int = 0
    complete: bool = False

    def look(self, run: Run) -> Seen:
        """Return what is known of a run."""
        return self.seen.get(run.name, Seen())


def decide(
    sweep: Sweep, seen: Mapping[str, Seen], max_failures: int = 2, accept_missing: bool = False,
) -> Decision:
    """Return what to start and what is known.

    The second step begins when the first has a result for every run; the reported runs when the last step has. A rate
    that diverges with any seed does not win. Of equal scores the larger rate wins, which is the first in the grid.

    Args:
        sweep: What is swept.
        seen: As in ``Decision``.
        max_failures: A run that failed more often is given up, and blocks its method: choosing among the others
            would be another protocol.
        accept_missing: Choose among the others all the same.
    """
    return _Deciding(sweep, max_failures, accept_missing, Decision(seen)).decide()


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

    def decide(self) -> Decision:
        decision, sweep = self.decision, self.sweep
        for method in sweep.order():
            sizes = [len(step.grid) * len(sweep.select_seeds) for step in sweep.methods[method].steps]
            decision.to_come += sum([*sizes, len(sweep.report_seeds)][self.reach(method):])
        waits = [run for run in decision.runs if decision.look(run).state in ('to start', 'failed')]
        decision.start = [run for run in waits if not self.gave_up(run)]
        settled = all(decision.look(run).ended or (self.accept_missing and run in waits) for run in decision.runs)
        decision.complete = settled and not (decision.start or decision.blocked or decision.to_come)
        return decision

    def gave_up(self, run: Run) -> bool:
        seen = self.decision.look(run)
        return not seen.ended and seen.failures > self.max_failures

    def reach(self, method: str) -> int:
        """Add the runs of a method's stages, and return how many stages have theirs."""
        protocol, decision = self.sweep.methods[method], self.decision
        rates, known = dict(protocol.fixed), []
        for number, step in enumerate(protocol.steps):
            stage = f'step{number + 1}'
            starts = self.starts(method, self.sweep.select_seeds, selecting=True)
            if starts is None:
                return number
            tried = {run.rates for run in known}
            points = [{**rates, **dict.fromkeys(step.rates, value)} for value in step.grid]
            runs = [run for point in points for seed, start in starts.items()
                    if (run := Run(method, stage, seed=seed, start=start, **point)).rates not in tried]
            decision.runs += runs
            known += runs
            if self.blocks(method, stage, runs) or any(not (decision.look(r).ended or self.gave_up(r)) for r in runs):
                return number + 1
            scores = self.scores(known)
            if not scores:
                decision.blocked[method] = f'{stage}: every rate diverged or failed; give smaller ones by --grid'
                return number + 1
            best = max(scores, key=scores.get)
            decision.winners[method, stage] = next(run for run in known if run.rates == best)
            rates = dict(zip(RATES, best, strict=True))
        starts = self.starts(method, self.sweep.report_seeds, selecting=False)
        if starts is None:
            return len(protocol.steps)
        reported = [Run(method, REPORT, seed=seed, start=start, **rates) for seed, start in starts.items()]
        decision.runs += reported
        self.blocks(method, REPORT, reported)
        return len(protocol.steps) + 1

    def blocks(self, method: str, stage: str, runs: list[Run]) -> bool:
        """Return whether runs of a stage failed too often for the method to go on."""
        names = [run.name for run in runs if self.gave_up(run)]
        if not names or self.accept_missing:
            return False
        self.decision.blocked[method] = f'{stage}: failed more than {self.max_failures} times: {", ".join(names)}'
        return True

    def starts(self, method: str, seeds: tuple[int, ...], selecting: bool) -> dict[int, Run | None] | None:
        """Return by seed the run that a run starts from, ``None`` while one of them has no model."""
        base, decision = self.sweep.methods[method].starts_from, self.decision
        if base is None:
            return dict.fromkeys(seeds)
        winner = decision.winners.get((base, f'step{len(self.sweep.methods[base].steps)}'))
        runs = {run.seed: run for run in decision.runs if winner and run.method == base and run.rates == winner.rates
                and (run.stage == REPORT) != selecting}
        for seed in seeds:
            state = decision.look(runs[seed]) if seed in runs else Seen()
            if state.value is None:
                if state.diverged:
                    decision.blocked[method] = f'starts from {runs[seed].name}, which diverged'
                if base in decision.blocked:
                    decision.blocked[method] = f'waits for {base}'
                return None
        return {seed: runs[seed] for seed in seeds}

    def scores(self, runs: list[Run]) -> dict[tuple[float, float], float]:
        """Return the mean over the seeds by rates, of the rates whose runs all have a value."""
        values: dict[tuple[float, float], list[float | None]] = {}
        for run in runs:
            values.setdefault(run.rates, []).append(self.decision.look(run).value)
        return {rates: fmean(each) for rates, each in values.items() if None not in each}
