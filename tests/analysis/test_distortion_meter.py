"""A stage's measurements: as if all images were there at once, in memory that does not grow with them."""

import copy
import pickle

import numpy as np
import pytest
import torch

from mmseg_daft.analysis.bootstrap import median_with_interval
from mmseg_daft.analysis.contact_sheet import MIN_PIXELS, choose
from mmseg_daft.analysis.distortion_meter import VOID, DistortionMeter, ImageDistortion


def measured(numbers, batch=1, channels=6, classes=3):
    meter = DistortionMeter(['A', 'B'], classes)
    for part in np.array_split(numbers, -(-len(numbers) // batch)):
        maps = {}
        for name, shift in (('before', 0), ('A', 1), ('B', 2)):
            maps[name] = torch.stack([torch.randn(channels, 8, 9, generator=torch.Generator().manual_seed(
                1000 * shift + int(i))) for i in part])
        labels = torch.stack([torch.randint(classes, (8, 9), generator=torch.Generator().manual_seed(int(i)))
                              for i in part])
        labels[:, 0] = VOID
        meter.add(part.tolist(), maps['before'], {'A': maps['A'], 'B': maps['before'] + 0.1 * maps['B']}, labels)
    return meter


def facts(meter, method):
    mine = meter.methods[method]
    return ([vars(image) for image in mine.images], [h.counts.tolist() for h in mine.histograms()],
            [h.interval() for h in mine.histograms()[:2]])


def test_batches_and_processes_do_not_matter():
    whole = measured(np.arange(11), 11)
    streamed = measured(np.arange(11), 2)
    merged = measured(np.arange(1, 11, 2))
    merged.merge(copy.deepcopy(measured(np.arange(0, 11, 2), 3)))
    merged.merge(DistortionMeter(['A', 'B'], 3))  # a process without images
    for other in (streamed, merged):
        for method in 'AB':
            assert facts(other, method) == facts(whole, method)
            assert other.cka(method) == pytest.approx(whole.cka(method), rel=1e-12)
            assert other.debiased_cka(method) == pytest.approx(whole.debiased_cka(method), rel=1e-9)
    assert whole.cka('B') > 0.95 and whole.debiased_cka('B') > whole.debiased_cka('A')


def test_memory_does_not_grow_but_by_a_few_numbers_an_image():
    few, many = (len(pickle.dumps(measured(np.arange(n), 5, channels=48))) for n in (5, 205))
    assert (many - few) / 200 / 2 < 400  # bytes an image and method; its features have 13,824
    assert sum(t.numel() for t in vars(measured(np.arange(9), channels=48).before).values()
               if isinstance(t, torch.Tensor)) == 48 * 48 + 4 * 48 + 3


def test_padding_is_left_out():
    maps = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)
    valid = torch.zeros(1, 6, 6, dtype=torch.bool)
    valid[:, :4, :5] = True
    padded, cut = DistortionMeter(['A']), DistortionMeter(['A'])
    padded.add([0], maps[0], {'A': maps[1]}, valid=valid)
    cut.add([0], maps[0][:, :, :4, :5], {'A': maps[1][:, :, :4, :5]})
    (a, counts, _), (b, cut_counts, _) = facts(padded, 'A'), facts(cut, 'A')
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
    assert [(c.image, c.class_) for c in choose(images, 3, most=True)] == [(1, 0), (2, 1)]
    assert [(c.image, c.class_) for c in choose(images, 3, most=False)] == [(2, 0), (2, 1)]
    assert [c.image for c in choose(images, 0, most=True, without_classes=2)] == [1, 2]
    assert [c.image for c in choose(images, 0, most=False, without_classes=2)] == [0, 2]
