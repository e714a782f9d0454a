"""All numbers of an analysis in one tidy table, numbers.csv; and several such files in one, such as one for each seed.

A row is a number, told apart by the columns before it. ``level`` says what it is about: ``image`` (the pooled feature),
``pixel``, ``class`` (its pixels), ``stage`` (CKA) or ``layer`` (Eq. 6, BN drift). Histograms over pixels are rows of
counts, empty bins left out.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmseg_daft.analysis.findings import Findings
    from mmseg_daft.analysis.meter import Median, PixelHistogram

COLUMNS = ('level', 'measure', 'method', 'stage', 'layer', 'class', 'image', 'bin_low', 'bin_high', 'statistic',
           'value')


def write_numbers(findings: Findings, path: Path) -> None:
    """Write all numbers as CSV."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, COLUMNS, restval='')
        writer.writeheader()
        writer.writerows(_rows(findings))


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
                which = dict(where, level='image', image=findings.images[image.image], statistic='value')
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


class Quantity(NamedTuple):
    """What a number of a summary is about; ``stage`` is empty for a median over all layers."""

    method: str
    stage: str
    level: str
    measure: str


class Spread(NamedTuple):
    """A number over several analyses: mean, and standard deviation of the sample."""

    mean: float
    standard_deviation: float


def average(paths: Sequence[Path]) -> dict[Quantity, Spread]:
    """Return mean and standard deviation of each quantity over the summaries of several analyses.

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
    return {quantity: Spread(statistics.fmean(values := [each[quantity] for each in summaries]),
                             statistics.stdev(values)) for quantity in summaries[0]}


def _summary(path: Path) -> dict[Quantity, float]:
    """Return an analysis's own summary: medians over images or pixels, CKA, medians over layers."""
    if not path.is_file():
        raise ValueError(f'There is no {path}. mmseg-daft analyze --out DIR writes DIR/numbers.csv.')
    found: dict[Quantity, float] = {}
    layers: dict[Quantity, list[float]] = {}
    try:
        with path.open(newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                level, value = row['level'], float(row['value'])
                if level == 'layer':
                    layers.setdefault(Quantity(row['method'], '', level, row['measure']), []).append(value)
                elif level == 'stage' or (level in ('image', 'pixel') and row['statistic'] == 'median'):
                    found[Quantity(row['method'], row['stage'], level, row['measure'])] = value
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path} is not the numbers.csv of mmseg-daft analyze ({error!r}).') from error
    found.update({quantity: statistics.median(values) for quantity, values in layers.items()})
    if not found:
        raise ValueError(f'{path} holds no numbers. Run mmseg-daft analyze again.')
    return found


def write_average(spreads: dict[Quantity, Spread], analyses: int, path: Path) -> None:
    """Write an average over so many analyses as CSV, six digits each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow((*Quantity._fields, 'runs', *Spread._fields))
        writer.writerows((*quantity, analyses, *(f'{value:.6g}' for value in spread))
                         for quantity, spread in spreads.items())
