"""A stage's measurements: as if all images were there at once, in memory that does not grow with them."""

import copy
import pickle

import numpy as np
import pytest
import torch

from mmseg_daft.analysis.findings import (
    MIN_PIXELS,
    VOID,
    DistortionMeter,
    ImageDistortion,
    choose,
    median_with_interval,
)


def measured(numbers, batch=1, channels=6, classes=3):
    meters = {'A': DistortionMeter(classes), 'B': DistortionMeter(classes)}
    for part in np.array_split(numbers, -(-len(numbers) // batch)):
        maps = {}
        for name, shift in (('before', 0), ('A', 1), ('B', 2)):
            maps[name] = torch.stack([torch.randn(channels, 8, 9, generator=torch.Generator().manual_seed(
                1000 * shift + int(i))) for i in part])
        labels = torch.stack([torch.randint(classes, (8, 9), generator=torch.Generator().manual_seed(int(i)))
                              for i in part])
        labels[:, 0] = VOID
        meters['A'].add(part.tolist(), maps['before'], maps['A'], labels)
        meters['B'].add(part.tolist(), maps['before'], maps['before'] + 0.1 * maps['B'], labels)
    return meters


def facts(meter):
    return ([vars(image) for image in meter.images], [h.counts.tolist() for h in meter.histograms()],
            [h.median() for h in meter.histograms()[:2]])


def test_batches_and_processes_do_not_matter():
    whole = measured(np.arange(11), 11)
    streamed = measured(np.arange(11), 2)
    merged = measured(np.arange(1, 11, 2))
    empty = {'A': DistortionMeter(3), 'B': DistortionMeter(3)}  # a process without images
    for method in 'AB':
        empty[method].merge(copy.deepcopy(merged[method]))
        merged[method].merge(measured(np.arange(0, 11, 2), 3)[method])
        merged[method].merge(DistortionMeter(3))
        empty[method].merge(measured(np.arange(0, 11, 2), 3)[method])
        for other in (streamed, merged, empty):
            assert facts(other[method]) == facts(whole[method])
            assert other[method].cka() == pytest.approx(whole[method].cka(), rel=1e-12)
            assert other[method].debiased_cka() == pytest.approx(whole[method].debiased_cka(), rel=1e-9)
    assert whole['B'].cka() > 0.95 and whole['B'].debiased_cka() > whole['A'].debiased_cka()


def test_memory_does_not_grow_but_by_a_few_numbers_an_image():
    def size(n):
        meters = measured(np.arange(n), 5, channels=48)
        assert all(len(meter.moments()) == 3 for meter in meters.values())  # a few mini-batches wait for it
        return len(pickle.dumps(meters))

    few, many = size(5), size(205)
    assert (many - few) / 200 / 2 < 400  # bytes an image and method; its features have 13,824
    assert [sum(t.numel() for t in vars(moments).values() if isinstance(t, torch.Tensor))
            for moments in measured(np.arange(9), channels=48)['A'].moments()] == 3 * [48 * 48 + 4 * 48 + 3]


def test_padding_is_left_out():
    maps = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)
    valid = torch.zeros(1, 6, 6, dtype=torch.bool)
    valid[:, :4, :5] = True
    padded, cut = DistortionMeter(), DistortionMeter()
    padded.add([0], *maps, valid=valid)
    cut.add([0], *(each[:, :, :4, :5] for each in maps))
    (a, counts, _), (b, cut_counts, _) = facts(padded), facts(cut)
    assert counts == cut_counts and sum(counts[0]) == 20
    assert a[0]['cosine_similarity'] == pytest.approx(b[0]['cosine_similarity'], rel=1e-12)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [low < 0 < high for _, low, high in (median_with_interval(rng.normal(size=40)) for _ in range(100))]
    assert 0.87 <= np.mean(covered) <= 1.0
    assert median_with_interval([3.0]).value == 3 and np.isnan(median_with_interval([1.0, 2.0]).low)


def test_the_sheets_take_the_extremes_of_each_class():
    def image(i, cosine, **classes):
        return ImageDistortion(i, cosine, 0.0, cosine, {int(k[1:]): v[0] for k, v in classes.items()},
                               {int(k[1:]): v[1] for k, v in classes.items()})
    images = [image(0, 0.9, c0=(50, 0.8), c1=(MIN_PIXELS - 1, 0.1)), image(1, 0.7, c0=(9, 0.3)),
              image(2, 0.8, c0=(9, 0.95), c1=(9, 0.6))]
    assert [(i.number, c) for i, c in choose(images, 3, 'most')] == [(1, 0), (2, 1)]
    assert [(i.number, c) for i, c in choose(images, 3, 'least')] == [(2, 0), (2, 1)]
    assert [i.number for i, _ in choose(images, 0, 'most', without_classes=2)] == [1, 2]
    assert [i.number for i, _ in choose(images, 0, 'least', without_classes=2)] == [0, 2]
