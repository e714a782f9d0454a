"""All numbers of an analysis in one tidy table: a row a number, told apart by the columns before it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mmseg_daft.analysis.bootstrap import Median
from mmseg_daft.analysis.findings import Findings
from mmseg_daft.analysis.pixel_histogram import PixelHistogram

COLUMNS = ('level', 'measure', 'method', 'stage', 'layer', 'class', 'image', 'bin_low', 'bin_high', 'statistic',
           'value')


def write_tidy(findings: Findings, path: Path) -> int:
    """Write the table as CSV and return how many rows it has.

    ``level`` says what a row is about: ``image`` (the pooled feature), ``pixel``, ``class`` (its pixels), ``stage``
    (CKA) or ``layer`` (Eq. 6, BN drift). Histograms over pixels are rows of counts, empty bins left out.
    """
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, COLUMNS, restval='')
        writer.writeheader()
        number = 0
        for row in _rows(findings):
            writer.writerow(row)
            number += 1
    return number


def _rows(findings: Findings) -> Iterator[dict[str, object]]:
    for row in findings.summary():
        where = {'method': row['method'], 'stage': row['stage']}
        for key, level, measure in (('cosine', 'image', 'cosine_similarity'), ('l2', 'image', 'l2_distance'),
                                    ('pixel_cosine', 'pixel', 'cosine_similarity'), ('pixel_l2', 'pixel',
                                                                                     'l2_distance')):
            yield from _median(dict(where, level=level, measure=measure), row[key])
        for key in ('cka', 'debiased_cka'):
            yield dict(where, level='stage', measure=key, statistic='value', value=row[key])
    for row in findings.class_summary():
        where = {'method': row['method'], 'stage': row['stage'], 'class': row['class'], 'level': 'class'}
        yield dict(where, measure='cosine_similarity', statistic='pixels', value=row['pixels'])
        for statistic, value in zip(('pixel_lower_quartile', 'pixel_median', 'pixel_upper_quartile'),
                                    (row['quartiles'][0], row['pixel_cosine'], row['quartiles'][1]), strict=True):
            yield dict(where, measure='cosine_similarity', statistic=statistic, value=value)
        yield dict(where, measure='l2_distance', statistic='pixel_median', value=row['pixel_l2'])
        yield from _median(dict(where, measure='image_mean_cosine_similarity'), row['image_cosine'])
    for stage, meter in findings.stages.items():
        for method, mine in meter.methods.items():
            where = {'method': method, 'stage': stage}
            for image in mine.images:
                which = dict(where, level='image', image=findings.images[image.image], statistic='value')
                yield dict(which, measure='cosine_similarity', value=image.cosine_similarity)
                yield dict(which, measure='l2_distance', value=image.l2_distance)
                yield dict(which, measure='pixel_mean_cosine_similarity', value=image.pixel_cosine)
                for class_, cosine in image.class_cosine.items():
                    yield {**which, 'level': 'class', 'class': findings.classes[class_],
                           'measure': 'image_mean_cosine_similarity', 'value': cosine}
            yield from _histogram(dict(where, level='pixel', measure='cosine_similarity'), mine.pixel_cosine)
            yield from _histogram(dict(where, level='pixel', measure='l2_distance'), mine.pixel_distance)
    for method, changes in findings.changes.items():
        for tensor, value in changes.changes.items():
            yield dict(level='layer', measure=f'relative_change_{tensor.kind}', method=method, stage=tensor.stage,
                       layer=tensor.layer, statistic='value', value=value)
        for layer, drift in changes.drift.items():
            for measure, value in drift._asdict().items():
                yield dict(level='layer', measure=f'bn_drift_{measure}', method=method, layer=layer,
                           statistic='value', value=value)


def _median(where: dict[str, object], median: Median) -> Iterator[dict[str, object]]:
    for statistic, value in zip(('median', 'interval_low', 'interval_high'), median, strict=True):
        yield dict(where, statistic=statistic, value=value)


def _histogram(where: dict[str, object], histogram: PixelHistogram) -> Iterator[dict[str, object]]:
    edges = [histogram.least, *histogram.bins.edges.tolist(), histogram.largest]
    for i in histogram.counts.nonzero()[0].tolist():
        yield dict(where, bin_low=edges[i], bin_high=edges[i + 1], statistic='count', value=int(histogram.counts[i]))
