"""Single decisions of a sweep, and the grids, read by hand out of the paper's text and the authors' files."""

import json
from dataclasses import replace

import pytest

from mmseg_daft.sweep.folder import SweepFolder, count_failures
from mmseg_daft.sweep.protocol import GRIDS, Protocol, Run, Seen, Step, Sweep, decide, protocols
from mmseg_daft.sweep.results import method_results, plan_table, to_markdown

DAFT = Protocol((Step(('backbone_lr',), (0.1, 0.01)), Step(('head_lr',), (10.0, 0.1))), {'head_lr': 1.0})
SWEEP = Sweep({'daft': DAFT}, report_seeds=(0, 1))


def run(stage, backbone, head, seed=0):
    return Run('daft', stage, backbone, head, seed).name


def test_the_grids_are_the_paper_s():
    """Supplement, "Hyperparameter Details"."""
    known = protocols()
    assert known['ft'].steps == (Step(('backbone_lr', 'head_lr'), (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)),)
    assert known['lpft'].steps[0].grid == (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7)
    assert protocols('clip')['lpft'] == known['lpft']
    assert protocols('swav')['lpft'].steps[0].grid == (0.01, 0.003, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
    assert known['daft'].steps == (
        Step(('backbone_lr',), (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)),
        Step(('head_lr',), (10.0, 3.0, 0.3, 0.1)))
    assert known['daft'].fixed == {'head_lr': 1.0}


@pytest.mark.parametrize(('data', 'start', 'method', 'grid'), [
    ('cifar', 'moco', 'daft', (1e-4, 3e-5, 1e-5, 3e-6)),
    ('fmow', 'moco', 'daft', (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)),
    ('domainnet', 'clip', 'daft', (3e-5, 1e-5, 3e-6, 1e-6, 3e-7)),
    ('entity', 'clip', 'daft', (1e-4, 3e-5, 1e-6, 3e-7)),  # with a gap
    ('domainnet', 'swav', 'daft', (0.3, 0.1, 0.03, 0.01, 3e-3)),
    ('domainnet', 'moco', 'ft', (0.01, 3e-3, 1e-3, 3e-4, 1e-4)),
    ('living', 'swav', 'ft', (0.1, 0.03)),
    ('living', 'swav', 'lpft', (0.01, 0.003, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6))])
def test_the_grids_of_a_data_set_are_those_of_the_authors_files(data, start, method, grid):
    known = protocols(start, grids=data)
    assert known[method].steps[0].grid == grid
    assert known['daft'].steps[1].grid == (10.0, 3.0, 0.3, 0.1)


def test_every_data_set_has_a_grid_of_its_own_for_every_start():
    assert set(GRIDS) == {'paper', 'cifar', 'domainnet', 'entity', 'fmow', 'living'}
    runs = {start: [len(protocols(start, grids=data)['daft'].steps[0].grid) for data in GRIDS if data != 'paper']
            for start in ('moco', 'clip', 'swav')}
    assert runs == {'moco': [4, 6, 4, 5, 4], 'clip': [4, 5, 4, 5, 4], 'swav': [4, 5, 5, 5, 4]}
    for data, parts in GRIDS.items():
        for grids in parts.values():
            for place, rates in grids.items():
                assert rates == sorted({*rates}, reverse=True), f'{data}, {place}'  # of equal scores the first wins


def test_daft_is_10_and_4_runs():
    decision = decide(Sweep({'daft': protocols()['daft']}), {})
    assert [r.backbone_lr for r in decision.start] == [0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6]
    assert {r.head_lr for r in decision.start} == {1.0} and decision.to_come == 4 + 3


def test_the_second_step_competes_with_the_first_s_winner():
    seen = {run('step1', 0.1, 1): Seen(40.0), run('step1', 0.01, 1): Seen(50.0),
            run('step2', 0.01, 10): Seen(45.0), run('step2', 0.01, 0.1): Seen(49.0)}
    decision = decide(SWEEP, seen)
    assert decision.winners['daft', 'step2'].rates == (0.01, 1.0)
    assert [r.name for r in decision.start] == [run('report', 0.01, 1, seed) for seed in (0, 1)]
    assert not decision.complete


def test_the_released_search_converts_in_its_second_step_alone_and_nothing_of_the_first_competes():
    known = protocols(search='released', grids='cifar')
    sweep = Sweep({'daft': known['daft']}, report_seeds=(0,))
    first = decide(sweep, {})
    assert [r.name for r in first.start] == [
        run('step1-plain', rate, 1) for rate in (1e-4, 3e-5, 1e-5, 3e-6)]
    seen = {r.name: Seen(90.0 + (r.backbone_lr == 3e-5)) for r in first.start}
    second = decide(sweep, seen)
    assert [r.name for r in second.start] == [run('step2', 3e-5, head) for head in (10, 3, 0.3, 0.1)]
    seen |= {r.name: Seen(50.0 + (r.head_lr == 0.3)) for r in second.start}
    last = decide(sweep, seen)
    assert [r.name for r in last.start] == [run('report', 3e-5, 0.3)]
    assert set(last.rivals['daft', 'step2']) == set(second.start)
    # Nor is a head_lr known from the first step.
    daft = Protocol((known['daft'].steps[0], Step(('head_lr',), (1.0, 0.1))), {'head_lr': 1.0})
    assert [r.head_lr for r in decide(Sweep({'daft': daft}), seen).start] == [1.0]


def test_the_released_search_s_other_rows():
    """Integrated LP-FT ends with the first step; FT + conversion tries its rates; all others are as in the paper."""
    paper, released = protocols('swav', grids='fmow'), protocols('swav', grids='fmow', search='released')
    assert released['integrated-lpft'].steps == paper['daft'].steps[:1]
    assert released['integrated-lpft'].fixed == {'head_lr': 1.0}
    assert released['ft-conversion'].steps == (Step(('backbone_lr', 'head_lr'), (0.3, 0.1, 0.03, 0.01, 3e-3)),)
    assert {name for name in paper if paper[name] != released[name]} == {'daft', 'integrated-lpft', 'ft-conversion'}


@pytest.mark.parametrize(('search', 'first'), [('paper', 2), ('released', 3)])
def test_a_rate_that_the_first_step_has_tried_is_neither_trained_again_nor_counted(search, first, tmp_path):
    """Of the second step's three, one is the first's, where that converts as well."""
    daft = protocols(search=search)['daft']
    steps = replace(daft.steps[0], grid=(0.1, 0.01)), replace(daft.steps[1], grid=(10.0, 1.0, 0.1))
    sweep = Sweep({'daft': replace(daft, steps=steps)}, select_seeds=(0, 1), report_seeds=(0,))
    seen, planned = {}, None
    while not (decision := decide(sweep, seen)).complete:
        planned = planned or len(decision.runs) + decision.to_come
        assert len(decision.runs) + decision.to_come == planned
        seen |= {each.name: Seen(1.0) for each in decision.start}
    assert len(seen) == planned == 2 * (2 + first) + 1
    assert f'{planned} runs of ' in plan_table(SweepFolder(tmp_path, sweep, {}, 0.1, '', 0))[1]


def test_a_diverged_rate_loses_and_counts_as_a_result():
    seen = {run('step1', 0.1, 1): Seen(diverged=True), run('step1', 0.01, 1): Seen(1.0)}
    decision = decide(SWEEP, seen)
    assert decision.winners['daft', 'step1'].rates == (0.01, 1.0) and not decision.blocked
    seen[run('step1', 0.01, 1)] = Seen(diverged=True)
    assert 'every rate diverged' in decide(SWEEP, seen).blocked['daft']


def test_a_rate_that_diverges_with_one_of_its_seeds_loses():
    sweep = Sweep({'daft': DAFT}, select_seeds=(0, 1))
    seen = {run('step1', 0.1, 1, 0): Seen(99.0), run('step1', 0.1, 1, 1): Seen(diverged=True),
            run('step1', 0.01, 1, 0): Seen(10.0), run('step1', 0.01, 1, 1): Seen(20.0)}
    decision = decide(sweep, seen)
    assert decision.winners['daft', 'step1'].rates == (0.01, 1.0)


def test_a_rate_counts_by_its_mean_over_the_seeds():
    seen = {run('step1', 0.1, 1, 0): Seen(99.0), run('step1', 0.1, 1, 1): Seen(1.0),
            run('step1', 0.01, 1, 0): Seen(60.0), run('step1', 0.01, 1, 1): Seen(60.0)}
    decision = decide(Sweep({'daft': DAFT}, select_seeds=(0, 1)), seen)
    assert decision.winners['daft', 'step1'].rates == (0.01, 1.0)


def test_a_run_that_failed_too_often_blocks_and_is_named_unless_it_is_accepted():
    seen = {run('step1', 0.1, 1): Seen(failures=3), run('step1', 0.01, 1): Seen(1.0)}
    decision = decide(SWEEP, seen)
    assert run('step1', 0.1, 1) in decision.blocked['daft'] and not decision.start and not decision.complete
    decision = decide(SWEEP, seen, accept_missing=True)
    assert not decision.blocked and {r.stage for r in decision.start} == {'step2'}
    assert run('step1', 0.1, 1) in {r.name for r in decide(SWEEP, seen, max_failures=3).start}


def test_what_is_active_is_not_started_again():
    decision = decide(SWEEP, {run('step1', 0.1, 1): Seen(active=True, failures=1)})
    assert [r.name for r in decision.start] == [run('step1', 0.01, 1)]


def test_lpft_waits_for_the_model_of_lp_with_the_same_seed():
    lp = Protocol((Step(('head_lr',), (1.0,)),), {'backbone_lr': 0.0})
    lpft = Protocol((Step(('backbone_lr', 'head_lr'), (1e-4,)),), starts_from='lp')
    sweep = Sweep({'lpft': lpft, 'lp': lp}, report_seeds=(0, 1))
    assert {r.method for r in decide(sweep, {}).start} == {'lp'}
    seen = {Run('lp', 'step1', 0, 1, 0).name: Seen(5.0)}
    first = next(r for r in decide(sweep, seen).start if r.method == 'lpft')
    assert first.start == Run('lp', 'step1', 0, 1, 0)
    seen.update({first.name: Seen(6.0), Run('lp', 'report', 0, 1, 0).name: Seen(5.0)})
    assert not [r for r in decide(sweep, seen).start if r.method == 'lpft']
    seen[Run('lp', 'report', 0, 1, 1).name] = Seen(5.5)
    assert [r.start for r in decide(sweep, seen).start] == [Run('lp', 'report', 0, 1, seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match='name a config for lp'):
        Sweep({'lpft': lpft})


@pytest.mark.parametrize('lost', [Seen(failures=3), Seen(diverged=True)], ids=['failed', 'diverged'])
def test_lpft_goes_on_without_the_seed_whose_model_is_missing_only_where_that_is_accepted(lost):
    lp = Protocol((Step(('head_lr',), (1.0,)),), {'backbone_lr': 0.0})
    lpft = Protocol((Step(('backbone_lr', 'head_lr'), (1e-4,)),), starts_from='lp')
    sweep = Sweep({'lp': lp, 'lpft': lpft}, report_seeds=(0, 1, 2))
    start, reported = Run('lp', 'step1', 0, 1, 0), [Run('lp', 'report', 0, 1, seed) for seed in range(3)]
    seen = {start.name: Seen(5.0), Run('lpft', 'step1', 1e-4, 1e-4, 0, start).name: Seen(6.0),
            reported[0].name: Seen(5.0), reported[1].name: lost}
    waiting = decide(sweep, seen, accept_missing=True)
    assert waiting.start == [reported[2]] and waiting.to_come == 2 and not waiting.blocked
    seen[reported[2].name] = Seen(5.5)
    refused = decide(sweep, seen)
    assert refused.blocked['lpft'] == f'starts from {reported[1].name}, which diverged or failed'
    assert not refused.start and not refused.complete
    decision = decide(sweep, seen, accept_missing=True)
    assert [run.start for run in decision.start] == [reported[0], reported[2]]
    seen |= {run.name: Seen(7.0) for run in decision.start}
    decision = decide(sweep, seen, accept_missing=True)
    assert decision.complete and decision.without_start == {'lpft': [reported[1]]}
    assert '| LP-FT | 7.00 ± 0.00 | 2 of 3 (seed 1 without a start) |' in to_markdown(method_results(decision), 'mIoU')
    seen |= {run.name: lost for run in reported}
    decision = decide(sweep, seen, accept_missing=True)
    names = ', '.join(run.name for run in reported)
    assert decision.blocked == {'lpft': f'starts from {names}, which diverged or failed'} and not decision.complete


@pytest.mark.parametrize('search', ['paper', 'released'])
def test_a_sweep_survives_its_file(search):
    sweep = Sweep(protocols('swav', search=search), (0, 1), (3, 4, 5), iterations=7)
    assert Sweep.from_json(json.loads(json.dumps(sweep.to_json()))) == sweep


def attempt(outcome, job='1', iteration=0):
    return dict(outcome=outcome, job=job, iteration=iteration)


@pytest.mark.parametrize(('attempts', 'active', 'failures'), [
    ([], False, 0),
    ([attempt('failed')], False, 1),
    ([attempt(None)], True, 0),   # it is running
    ([attempt(None)], False, 1),  # its node died
    ([attempt('stopped')], False, 0),
    ([attempt(None, '1'), attempt(None, '1')], True, 0),      # Slurm restarted the job
    ([attempt('failed', '1'), attempt(None, '1')], True, 0),  # what fails while Slurm ends it
    ([attempt(None, '1', 0), attempt('failed', '2', 500)], False, 1),  # the first got further
    ([attempt(None, '1', 0), attempt('failed', '2', 0)], False, 2)])
def test_failures_are_counted_from_the_attempts(attempts, active, failures):
    assert count_failures(attempts, active) == failures
