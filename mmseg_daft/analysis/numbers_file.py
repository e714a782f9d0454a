"""All numbers of an analysis in one tidy table, numbers.csv; and several such files in one, such as one for each seed.

A row is a number, told apart by the columns before it. ``level`` says what it is about: ``image`` (the pooled feature),
``pixel``, ``class`` (its pixels), ``stage`` (CKA) or ``layer`` (Eq. 6, BN drift). Histograms over pixels are rows of
counts, empty bins left out.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmseg_daft.analysis.findings import Findings
    from mmseg_daft.analysis.meter import Median, PixelHistogram

COLUMNS = ('level', 'measure', 'method', 'stage', 'layer', 'class', 'image', 'bin_low', 'bin_high', 'statistic',
           'value')


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV, with empty cells for what a row lacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, columns, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def write_numbers(findings: Findings, path: Path) -> None:
    """Write all numbers of an analysis."""
    write_csv(path, COLUMNS, _rows(findings))


def _rows(findings: Findings) -> Iterator[dict[str, object]]:
    for row in findings.summary():
        where = {'method': row['method'], 'stage': row['stage']}
        for level, prefix in (('image', ''), ('pixel', 'pixel_')):
            for key, measure in (('cosine', 'cosine_similarity'), ('l2', 'l2_distance')):
                yield from _median(dict(where, level=level, measure=measure), row[f'{prefix}{key}'])
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
    for stage, meters in findings.stages.items():
        for method, meter in meters.items():
            where = {'method': method, 'stage': stage}
            for image in meter.images:
                which = dict(where, level='image', image=findings.images[image.number], statistic='value')
                yield dict(which, measure='cosine_similarity', value=image.cosine_similarity)
                yield dict(which, measure='l2_distance', value=image.l2_distance)
                yield dict(which, measure='pixel_mean_cosine_similarity', value=image.pixel_cosine)
                for class_, cosine in image.class_cosine.items():
                    yield {**which, 'level': 'class', 'class': findings.classes[class_],
                           'measure': 'image_mean_cosine_similarity', 'value': cosine}
            yield from _histogram(dict(where, level='pixel', measure='cosine_similarity'), meter.pixel_cosine)
            yield from _histogram(dict(where, level='pixel', measure='l2_distance'), meter.pixel_distance)
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
    bounds = histogram.bounds.tolist()
    for i in histogram.counts.nonzero()[0].tolist():
        yield dict(where, bin_low=bounds[i], bin_high=bounds[i + 1], statistic='count', value=int(histogram.counts[i]))


def average(paths: Sequence[Path]) -> list[dict[str, object]]:
    """Return mean and standard deviation of each number of a summary over several analyses, a row for each.

    A summary is of medians over images or pixels, CKA, and medians over layers, which have no stage.

    Raises:
        ValueError: There are fewer than two files, one comes twice or is no analysis, or they hold different things.
    """
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise ValueError('A standard deviation needs two analyses or more, each once: name their numbers.csv.')
    summaries = [_summary(path) for path in paths]
    for path, other in zip(paths[1:], summaries[1:], strict=True):
        differs = sorted(set(other) ^ set(summaries[0]))
        if differs:
            raise ValueError(f'{path} and {paths[0]} do not hold the same: {", ".join(filter(None, differs[0]))} is in '
                             'one of them alone. Analyze the same methods and stages, by the same names.')
    values = {key: [each[key] for each in summaries] for key in summaries[0]}
    return [dict(zip(('method', 'stage', 'level', 'measure'), key, strict=True), runs=len(paths),
                 mean=statistics.fmean(numbers), standard_deviation=statistics.stdev(numbers))
            for key, numbers in values.items()]


def _summary(path: Path) -> dict[tuple[str, str, str, str], float]:
    found: dict[tuple[str, str, str, str], list[float]] = {}
    try:
        with path.open(newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                of_layer, stage = row['level'] == 'layer', row['level'] == 'stage'
                if of_layer or stage or (row['level'] in ('image', 'pixel') and row['statistic'] == 'median'):
                    key = (row['method'], '' if of_layer else row['stage'], row['level'], row['measure'])
                    found.setdefault(key, []).append(float(row['value']))
    except FileNotFoundError as error:
        raise ValueError(f'There is no {path}. mmseg-daft analyze --out DIR writes DIR/numbers.csv.') from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path} is not the numbers.csv of mmseg-daft analyze ({error!r}).') from error
    if not found:
        raise ValueError(f'{path} holds no numbers. Run mmseg-daft analyze again.')
    layers_last = sorted(found, key=lambda key: key[2] == 'layer')
    return {key: statistics.median(found[key]) for key in layers_last}
