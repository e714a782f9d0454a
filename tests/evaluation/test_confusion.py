"""The numbers against loops over pixels, the formulas by hand, and how often the intervals hold the truth."""

import numpy as np
import pytest

from mmseg_daft.evaluation.confusion import (
    REPLICATES,
    accuracy,
    class_iou,
    corruption_degradation,
    estimate,
    mean_iou,
    mean_performance,
    relative_corruption_degradation,
    relative_performance,
    sums,
)


def areas_by_pixels(truth, told, classes):
    """Agreement, ground truth and prediction of one image, pixel by pixel."""
    areas = np.zeros((3, classes), int)
    for t, p in zip(truth.ravel(), told.ravel()):
        areas[1, t] += 1
        areas[2, p] += 1
        areas[0, t] += t == p
    return areas


def test_iou_and_accuracy_equal_those_of_sets_of_pixels():
    rng = np.random.default_rng(1)
    truth, told = rng.integers(0, 3, (2, 5, 7))
    told[truth == 2] = 1  # class 2 is never told right, class 3 never there, class 4 only told
    told[0, 0] = 4
    areas = areas_by_pixels(truth, told, 5)
    expected = [(np.logical_and(truth == c, told == c).sum() / np.logical_or(truth == c, told == c).sum())
                for c in (0, 1, 2)]
    iou = class_iou(areas)
    assert iou[:3].tolist() == expected and np.isnan(iou[3]) and iou[4] == 0
    assert mean_iou(areas) == pytest.approx(np.mean([*expected, 0]), rel=1e-15)
    judged = np.array([True, True, True, True, False])
    assert mean_iou(areas, judged) == pytest.approx(np.mean(expected), rel=1e-15)
    assert accuracy(areas) == (truth == told).mean()
    assert np.isnan(mean_iou(np.zeros((3, 5), int)))


def test_robustness_by_hand():
    """Two corruptions, three severities; the second has none at severity 3, as Cityscapes-C has it."""
    mine = np.array([[0.6, 0.5, 0.4], [0.3, 0.1, np.nan]])
    its = np.array([[0.5, 0.5, 0.2], [0.4, 0.2, np.nan]])
    assert mean_performance(mine) == pytest.approx((0.5 + 0.2) / 2)
    assert relative_performance(mine, 0.7) == pytest.approx(0.35 / 0.7)
    assert corruption_degradation(mine, its) == pytest.approx([1.5 / 1.8, 1.6 / 1.4])
    assert relative_corruption_degradation(mine, 0.7, its, 0.6) == pytest.approx(
        [(0.1 + 0.2 + 0.3) / (0.1 + 0.1 + 0.4), (0.4 + 0.6) / (0.2 + 0.4)])
    assert corruption_degradation(its, its) == pytest.approx([1, 1])
    assert np.isnan(relative_corruption_degradation(mine, 0.7, its, 0.2)).tolist() == [True, True]  # it loses nothing


def test_sums_are_of_images_drawn_with_replacement_and_exact():
    areas = np.arange(6 * 3 * 2).reshape(6, 3, 2) + 2 ** 40
    found = sums(areas)
    assert found.shape == (1 + REPLICATES, 3, 2) and np.array_equal(found[0], areas.sum(0))
    one_hot = sums(np.eye(6, dtype=int)[:, :, None] * np.ones((1, 1, 2), int))[1:, :, 0]  # how often each was drawn
    assert (one_hot.sum(1) == 6).all() and one_hot.mean(0) == pytest.approx(np.ones(6), abs=0.1)
    assert np.array_equal(found[1:], np.einsum('rn,nak->rak', one_hot, areas.astype(float)))
    assert len(sums(areas[:4])) == 1 and np.isnan(estimate(mean_iou(sums(areas[:4]))).low)


def simulated(rng, images):
    """Two runs on the same images, some of them hard for both: areas of two classes, ``(2, images, 3, 2)``.

    Of 1000 pixels each run tells so many right that the second is 0.01 better, whatever the image.
    """
    shares = rng.beta(6, 3, images)[None] + np.array([[0.0], [0.01]]) + rng.normal(0, 0.02, (2, images))
    right = (1000 * shares.clip(0.01, 0.99)).round()
    other = rng.integers(200, 800, images)  # of the ground truth, the second class's
    areas = np.zeros((2, images, 3, 2))
    for i, truth in enumerate((1000 - other, other)):
        areas[:, :, 0, i] = right * truth / 1000
        areas[:, :, 1, i] = truth
        areas[:, :, 2, i] = right * truth / 1000 + (1000 - right) * (1000 - truth) / 1000
    return areas


def test_intervals_hold_the_truth_as_often_as_they_say_and_pairs_are_told_apart():
    """95 %: of 300 simulated studies, 285 ± 4 (standard deviation); the percentile bootstrap is a little narrow."""
    rng = np.random.default_rng(0)
    truth = mean_iou(simulated(rng, 200_000).sum(1))
    held, held_difference, paired, apart = 0, 0, 0, 0
    for _ in range(300):
        first, second = map(mean_iou, map(sums, simulated(rng, 60)))
        one, difference = estimate(first), estimate(second - first)
        held += one.low <= truth[0] <= one.high
        held_difference += difference.low <= truth[1] - truth[0] <= difference.high
        paired += difference.verdict() == 'better'
        apart += one.high < estimate(second).low
    assert 0.91 <= held / 300 <= 0.98 and 0.91 <= held_difference / 300 <= 0.98
    assert paired > 200 and apart == 0  # intervals of each run alone would tell nothing


def test_equal_runs_are_level():
    rng = np.random.default_rng(3)
    verdicts = []
    for _ in range(100):
        first, second = map(mean_iou, map(sums, simulated(rng, 40)[[0, 0]] + rng.integers(0, 30, (2, 40, 1, 1))))
        verdicts.append(estimate(second - first).verdict())
    assert verdicts.count('level') >= 88
    assert estimate(first - first).verdict() == 'level'
