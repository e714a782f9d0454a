"""The study of shifts: what its rules count, and that a shift is the network, data and mode that its name says."""

import csv
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

sys.path.append(str(Path(__file__).parents[2] / 'benchmarks'))

import shifts


def write(path, brings, differences):
    """Write a study of shifts in which the conversion brings so much over 50, of two seeds that differ."""
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, shifts.COLUMNS)
        writer.writeheader()
        for i, (gain, difference) in enumerate(zip(brings, differences, strict=True)):
            for mode in shifts.MODES:
                for seed, noise in ((0, -1), (1, 1)):
                    value = 50 + noise + gain * (mode == 'conversion')
                    writer.writerow(dict(shift=f's{i}', half=1 + i % 2, mode=mode, seed=seed, seen=value, unseen=value,
                                         source=40 + difference, adapted=40, divergence=0.1 * i))


def test_a_rule_is_judged_by_its_signs_and_by_what_its_errors_cost(tmp_path):
    write(tmp_path / 'x.csv', [4, -2, 6, -1], [3, -5, 2, 1])
    found = {row['rule']: row for row in shifts.rules(shifts.read_cases(tmp_path / 'x.csv'), 'seen')}
    assert (found['always convert']['right'], found['always convert']['regret']) == (2, pytest.approx(3 / 4))
    assert (found['never convert']['right'], found['never convert']['regret']) == (2, pytest.approx(10 / 4))
    zero = found['difference of the read-outs above 0']
    assert (zero['right'], zero['regret']) == (3, pytest.approx(1 / 4))


def test_a_threshold_comes_from_the_other_shifts_alone(tmp_path):
    """The last shift would need a threshold of its own: the others cannot know."""
    write(tmp_path / 'x.csv', [5, 5, -5, 5], [3, 2, -2, -9])
    cases = shifts.read_cases(tmp_path / 'x.csv')
    key = 'difference of the read-outs'
    assert -2 < shifts.best_threshold(cases[:3], key, 'seen') <= 2
    row = {row['rule']: row for row in shifts.rules(cases, 'seen')}[f'{key}, threshold from the other shifts']
    assert row['right'] < 4


def test_tables_and_figure_hold_every_shift(tmp_path):
    write(tmp_path / 'x.csv', [4, -2, 6, -1], [3, -5, 2, 1])
    cases = shifts.read_cases(tmp_path / 'x.csv')
    assert shifts.table_of_cases(cases).splitlines()[2] == (
        '| s0 | 1 | 43 | +3.0 | 54.0 | 50.0 | 50.0 | 54.0 | 50.0 | 50.0 |')
    assert '| always convert | 2 of 4 | 0.75 | 2 of 4 | 0.75 |' in shifts.table_of_rules(cases).splitlines()
    for line in shifts.draw(cases).axes[0].lines[:2]:
        assert [*zip(*line.get_data(), strict=True)] == [(3, 4), (-5, -2), (2, 6), (1, -1)]


@pytest.mark.parametrize('name', ['lite0_noise', 'lite2_shapes-night', 'r18-day_dusk'])
def test_a_shift_is_what_its_name_says(name, tmp_path):
    shift = shifts.SHIFTS[name]
    for mode in shifts.MODES:
        shifts.write_config(shift, shift.target, mode, tmp_path / f'{mode}.py')
    conversion, none, frozen = (Config.fromfile(tmp_path / f'{mode}.py') for mode in shifts.MODES)
    assert [hook['type'] for hook in conversion.custom_hooks] == ['BNConversionHook'] and none.custom_hooks == []
    assert conversion.optim_wrapper == none.optim_wrapper != frozen.optim_wrapper
    assert conversion.model == none.model == frozen.model
    start = none.model.backbone.get('model_name', 'r18-day').removeprefix('tf_efficientnet_')
    assert start == shift.start and none.model.backbone.init_cfg.checkpoint
    loaders = none.train_dataloader, none.test_dataloader
    roots = {Path(loader.dataset.data_root).name for loader in loaders}
    transforms = [transform['type'] for loader in loaders for transform in loader.dataset.pipeline]
    if shift.target in shifts.CORRUPTED:
        assert roots == {'day'} and transforms.count('Corrupt') == 2 and transforms[1] == 'Corrupt'
    else:
        assert roots == {shift.target.removeprefix('shapes-')} and 'Corrupt' not in transforms
    assert shift.unseen != shift.target and none.model.decode_head.num_classes == (
        6 if shift.target.startswith('shapes') else 11)
