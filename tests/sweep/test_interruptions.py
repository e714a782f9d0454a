"""A sweep with a fake trainer: whatever crashes, fails and is started again in between, the same table comes out."""

import hashlib
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_daft.sweep.folder import RunFolder
from mmseg_daft.sweep.protocol import Protocol, Step, Sweep, decide_by_looking

MAX_FAILURES = 2
SWEEP = Sweep({
    'lp': Protocol((Step(('head_lr',), (1.0, 0.1)),), {'backbone_lr': 0.0}),
    'lpft': Protocol((Step(('backbone_lr', 'head_lr'), (0.1, 0.01)),), starts_from='lp'),
    'daft': Protocol((Step(('backbone_lr',), (0.3, 0.1, 0.03)), Step(('head_lr',), (10.0, 0.1))), {'head_lr': 1.0}),
}, select_seeds=(0, 1), report_seeds=(0, 1))
# What ends a job: it ends well, it fails, its node dies, or Slurm takes it off and starts the same job again; or it
# dies before it notes that it has begun.
EVENTS = st.sampled_from(['finish', 'fail', 'vanish', 'preempt', 'progress', 'vanish before its attempt'])
STEPS = st.one_of(st.tuples(EVENTS, st.integers(0, 20)), st.just(('restart', 0)), st.just(('look', 0)))


@pytest.fixture(scope='module', autouse=True)
def without_fsync():
    """No machine crashes here, and waiting for the disk takes most of the time."""
    with mock.patch('os.fsync'):
        yield


def outcome(name):
    """What a run leads to, from its name alone: some of them diverge."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    return None if number % 5 == 0 and 'report' not in name else number % 1000 / 10


class Cluster:
    """The folders on disk, a queue, and an orchestrator that can be killed: it keeps nothing in memory."""

    def __init__(self, root):
        self.root, self.queue, self.jobs, self.failed, self.finished, self.order = root, {}, 0, {}, [], []

    def place(self, run):
        return RunFolder(self.root / run.name)

    def look(self):
        in_queue = set(self.queue)
        return decide_by_looking(SWEEP, lambda run: self.place(run).seen(self.place(run).job() in in_queue),
                                 MAX_FAILURES)

    def submit(self, forget_job=False):
        """Start what is due; killed right after Slurm took the job, the orchestrator does not know of it."""
        decision = self.look()
        for run in decision.start:
            self.jobs += 1
            place = self.place(run)
            place.describe(dict(name=run.name))
            if not forget_job:
                place.submitted(str(self.jobs), 'slurm', f'ticket-{self.jobs}')
            self.queue[str(self.jobs)] = run
            if run.name not in self.order:
                self.order.append(run.name)

    def happen(self, event, job):
        """Let a queued job come to something, as the real one does: lock, attempt, result."""
        run, place = self.queue[job], self.place(self.queue[job])
        if event == 'vanish before its attempt':
            self.failed[run.name] = self.failed.get(run.name, 0) + 1
            if self.failed[run.name] <= MAX_FAILURES:
                del self.queue[job]
                return
            event = 'finish'
        lock = place.lock(seconds=0)
        assert lock is not None and place.is_locked()
        try:
            if place.result() is not None:
                del self.queue[job]  # a duplicate, of which nobody knew
                return
            saved = place.path / 'checkpoint'
            attempt = place.begin_attempt(job, int(saved.read_text()) if saved.exists() else 0,
                                          f'ticket-{job}')
            if event == 'progress':
                saved.write_text(str(int(saved.read_text()) + 1 if saved.exists() else 1))
                event = 'preempt'
            if event in ('fail', 'vanish'):
                self.failed[run.name] = self.failed.get(run.name, 0) + 1
                if self.failed[run.name] > MAX_FAILURES:
                    event = 'finish'
            if event == 'preempt':
                place.end_attempt(attempt, 'stopped')
                return  # the job is in the queue still
            if event == 'fail':
                place.end_attempt(attempt, 'failed')
            if event == 'finish':
                value = outcome(run.name)
                place.end_attempt(attempt, 'done' if value is not None else 'diverged')
                assert run.name not in self.finished
                self.finished.append(run.name)
                place.write_result(dict(value=value, diverged=value is None))
            del self.queue[job]
        finally:
            os.close(lock)

    def end(self, event='finish'):
        """Go on without another disturbance until nothing is left to do."""
        for _ in range(200):
            decision = self.look()
            if decision.complete or not (decision.start or self.queue):
                return decision
            self.submit()
            for job in [*self.queue]:
                self.happen(event, job)
        raise AssertionError('it never ends')


def table(decision):
    return ([(run.name, decision.look(run).value, decision.look(run).diverged) for run in decision.runs],
            {key: run.name for key, run in decision.winners.items()}, decision.complete, decision.blocked)


def undisturbed():
    with tempfile.TemporaryDirectory() as folder:
        return table(Cluster(Path(folder)).end())


EXPECTED = undisturbed()


def test_the_undisturbed_sweep_is_what_the_paper_describes():
    rows, winners, complete, blocked = EXPECTED
    assert complete and not blocked
    values = {name: value for name, value, _ in rows}
    for seed_pair in ('lp_step1', 'daft_step1'):
        scores = {}
        for name, value in values.items():
            if name.startswith(seed_pair):
                scores.setdefault(name.rpartition('_seed')[0], []).append(value)
        whole = {key: sum(v) for key, v in scores.items() if None not in v}
        assert winners[tuple(seed_pair.split('_'))].rpartition('_seed')[0] == max(whole, key=whole.get)
    won = winners['daft', 'step1'].split('_')[2]
    step2 = [name for name in values if name.startswith('daft_step2')]
    assert len(step2) == 4 and all(won in name for name in step2)
    assert any(diverged for _, _, diverged in rows)
    lp = winners['lp', 'step1'].split('_')[3].replace('head', 'lp')
    assert all(lp in name for name in values if name.startswith('lpft'))


@settings(max_examples=30, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_any_interleaving_ends_in_the_same_table(steps):
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        for event, choice in steps:
            if event == 'look':
                cluster.submit()
            elif event == 'restart':
                cluster.submit(forget_job=True)
            elif cluster.queue:
                cluster.happen(event, [*cluster.queue][choice % len(cluster.queue)])
        assert table(cluster.end()) == EXPECTED
        assert sorted(cluster.finished) == sorted(name for name, _, _ in EXPECTED[0])  # each once, none lost
        positions = {name: i for i, name in enumerate(cluster.order)}
        first_of_step2 = min(position for name, position in positions.items() if 'daft_step2' in name)
        assert all(position < first_of_step2 for name, position in positions.items() if 'daft_step1' in name)


def test_a_run_whose_jobs_die_before_they_begin_is_given_up(tmp_path):
    """As where the package cannot be loaded on the nodes: nothing is in the run's folder but the submissions."""
    cluster = Cluster(tmp_path)
    cluster.happen = lambda event, job: cluster.queue.pop(job)
    decision = cluster.end('vanish')
    first = [run for run in decision.runs if run.method in ('lp', 'daft')]
    assert {decision.look(run).failures for run in first} == {MAX_FAILURES + 1} and cluster.jobs == 3 * len(first)
    assert {'lp', 'daft'} <= set(decision.blocked) and not decision.complete


def test_jobs_that_had_nothing_to_do_are_no_failures(tmp_path):
    place = RunFolder(tmp_path)
    for number in range(3):
        place.submitted(str(number), 'slurm', f'ticket-{number}')
    assert place.seen().failures == 3 and place.seen(in_queue=True).failures == 2
    place.excuse('ticket-1')
    place.begin_attempt('0', 0, 'ticket-0')
    assert place.seen().failures == 1 + 1  # the first job by its attempt, of which no word came, and the last job
