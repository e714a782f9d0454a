"""The part of the training images that selects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmseg_daft.sweep.plan import hold_out

NAMES = st.lists(st.text('abc/', min_size=1, max_size=6), min_size=2, max_size=60, unique=True)


@given(NAMES, st.floats(0.05, 0.5), st.integers(0, 9))
def test_the_parts_are_disjoint_whole_and_in_order(names, fraction, seed):
    kept, held = hold_out(names, fraction, seed)
    assert sorted(kept + held) == sorted(names) and not set(kept) & set(held)
    assert [name for name in names if name in held] == held
    assert len(held) - 1 < fraction * len(names) <= len(held)


@given(st.permutations([f'image{i}' for i in range(40)]), st.integers(0, 99))
def test_the_part_does_not_depend_on_the_order_and_stays_when_images_are_added(names, seed):
    held = set(hold_out(names, 0.25, seed)[1])
    assert held == set(hold_out(sorted(names), 0.25, seed)[1])
    assert held - {'new'} <= set(hold_out([*names, 'new'], 0.25, seed)[1]) | held


def test_it_is_the_same_on_every_machine():
    """Written down here once; a change would give sweeps another split."""
    assert hold_out([f'{i:02d}' for i in range(10)], 0.2, 0)[1] == ['04', '07']


def test_a_city_is_never_in_both_parts():
    names = [f'{city}/{i}' for city in ('aachen', 'bochum', 'bremen', 'koeln', 'ulm') for i in range(4)]
    kept, held = hold_out(names, 0.1, 3, 'folder')
    assert len({name.split('/')[0] for name in held}) == 1 and len(held) == 4
    assert not {name.split('/')[0] for name in kept} & {name.split('/')[0] for name in held}


@given(st.integers(5, 80), st.integers(0, 50))
def test_a_block_is_one_stretch(count, seed):
    names = [f'{i:04d}' for i in range(count)]
    _, held = hold_out(names, 0.2, seed, 'block')
    first = int(held[0])
    assert held == names[first:first + len(held)] and len(held) == -(-count // 5)


def test_a_folder_that_is_far_larger_than_the_part_is_not_held_out():
    """Of two folders, the smaller one is what was asked for; where the seed begins with the other, that is refused."""
    names = [f'{folder}/{i}' for folder, count in (('a', 900), ('b', 100)) for i in range(count)]
    found = set()
    for seed in range(20):
        try:
            found.add(len(hold_out(names, 0.1, seed, 'folder')[1]))
        except ValueError as error:
            found.add(str(error))
    assert found == {100, 'Holding out 0.1 of 1000 images by folder would take 900 in place of 100: name '
                     '--held-out-by image, or another --held-out-seed.'}


def test_the_cities_that_are_held_out_of_cityscapes_are_a_tenth_or_little_more():
    """By the numbers of its images; the largest city has an eighth of all."""
    cities = dict(aachen=174, bochum=96, bremen=316, cologne=154, darmstadt=85, dusseldorf=221, erfurt=109, hamburg=248,
                  hanover=196, jena=119, krefeld=99, monchengladbach=94, strasbourg=365, stuttgart=196, tubingen=144,
                  ulm=95, weimar=142, zurich=122)
    names = [f'{city}/{i}' for city, count in cities.items() for i in range(count)]
    assert len(names) == 2975 and 298 <= len(hold_out(names, 0.1, 0, 'folder')[1]) <= 596


def test_what_leaves_a_part_empty_is_refused():
    for fraction in (0, 1, -1, 2):
        with pytest.raises(ValueError, match='between 0 and 1'):
            hold_out(['a', 'b'], fraction)
    with pytest.raises(ValueError, match='leaves nothing to train on'):
        hold_out(['city/a', 'city/b'], 0.5, by='folder')
    with pytest.raises(ValueError, match='named twice'):
        hold_out(['a', 'a'], 0.5)
