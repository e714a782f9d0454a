"""Tell findings: report.html with everything in it, beside it figures and numbers.csv, and a summary on the console.

A row of numbers.csv is a number, told apart by the columns before it. ``level`` says what it is about: ``image`` (the
pooled feature), ``pixel``, ``class`` (its pixels), ``stage`` (CKA) or ``layer`` (Eq. 6, BN drift). Histograms over
pixels are rows of counts, empty bins left out. Several such files, such as one for each seed, are averaged.
"""

import base64
import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from mmseg_daft.analysis import figures as draw
from mmseg_daft.analysis.findings import Findings, Median
from mmseg_daft.console import print_table
from mmseg_daft.core.distortion import KINDS
from mmseg_daft.files import read_json, write_atomically

MADE_FROM = 'made_from.json'  # says what a report was made from
COLUMNS = ('level', 'measure', 'method', 'stage', 'layer', 'class', 'image', 'bin_low', 'bin_high', 'statistic',
           'value')
KEYS = ('method', 'stage', 'level', 'measure')
"""What tells the numbers of a summary apart."""

_OF_FEATURES = {'cosine': ('image', 'cosine_similarity'), 'l2': ('image', 'l2_distance'),
                'pixel_cosine': ('pixel', 'cosine_similarity'), 'pixel_l2': ('pixel', 'l2_distance'),
                'cka': ('stage', 'cka'), 'debiased_cka': ('stage', 'debiased_cka')}


def refuse_other_report(folder: Path, report: str, made_from: Mapping[str, Any]) -> None:
    """Check that a folder holds no such report, or one that was made from the same config, models and data.

    Raises:
        ValueError: It holds a report of something else.
    """
    before = read_json(folder / MADE_FROM) or {}
    other = [key for key in made_from if before.get(key) != made_from[key]]
    if other and (folder / report).exists():
        raise ValueError(f'{folder} holds another report: it differs in {", ".join(other)}. Name another folder with '
                         '--out, or remove this one.')


def write_report(out: Path, findings: Findings, formats: Sequence[str], console: Console | None = None) -> None:
    """Write ``numbers.csv``, ``figures/`` and ``report.html``; their titles and captions are the template's."""
    write_csv(out / 'numbers.csv', COLUMNS, number_rows(findings))
    with draw.figure_style():
        write_page(out, 'analysis/report.html.j2', report_figures(findings), formats, console, shown, findings=findings,
                   kinds=KINDS, last_stage=list(findings.stages)[-1])


def write_page(
    out: Path, template: str, figures: Mapping[str, Figure], formats: Sequence[str], console: Console | None,
    show: Callable[[Any], str], **content: Any,
) -> None:
    """Write figures to ``figures/``, and ``report.html`` from a template that extends ``page.html.j2``.

    ``show`` returns a cell's text.
    """
    (out / 'figures').mkdir(parents=True, exist_ok=True)
    sources = {}
    for name, figure in track(figures.items(), 'Draw figures', console=console, disable=console is None):
        draw.save_figure(figure, out / 'figures', name, formats)
        suffix, mime = ('png', 'image/png') if name.startswith('sheet_') else ('svg', 'image/svg+xml')
        if suffix in formats:
            image = (out / 'figures' / f'{name}.{suffix}').read_bytes()
        else:
            figure.savefig(file := io.BytesIO(), format=suffix, metadata=draw.UNDATED.get(suffix))
            image = file.getvalue()
        sources[name] = f'data:{mime};base64,{base64.b64encode(image).decode()}'
    environment = Environment(loader=PackageLoader('mmseg_daft', ''), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(shown=show, sort_key=_sort_key, slug=slug)
    page = environment.get_template(template).render(sources=sources, **content)
    write_atomically(out / 'report.html', page)


def report_figures(findings: Findings) -> dict[str, Figure]:
    """Draw the report's figures, by the name of their files."""
    drawn = {'figure_1_images': draw.draw_distributions(findings, pixels=False),
             'figure_1_pixels': draw.draw_distributions(findings, pixels=True)}
    if any(changes.changes for changes in findings.changes.values()):
        drawn['figure_2_parameters'] = draw.draw_changes(findings)
    if any(changes.drift for changes in findings.changes.values()):
        drawn['bn_drift'] = draw.draw_drift(findings)
    drawn['cka'] = draw.draw_cka(findings)
    if findings.classes:
        drawn['classes'] = draw.draw_classes(findings, list(findings.stages)[-1])
    heats = [scene.heat for rows in findings.sheets.values() for scene in rows]
    top = float(max([1e-6, *(np.quantile(heat, 0.99) for heat in heats)]))
    low = float(min([top / 2, *(np.quantile(heat, 0.01) for heat in heats)]))
    heat_range = max(low, top / 1000), top  # of all sheets, over three powers of ten at most
    for (method, which), rows in findings.sheets.items():
        drawn[f'sheet_{slug(method)}_{which}'] = draw.draw_sheet(
            rows, findings.classes, findings.palette, f'The {which} distorted images, {method}', heat_range)
    return drawn


def slug(name: str) -> str:
    """Return a name that suits a file."""
    return ''.join(c if c.isalnum() else '-' for c in name.lower())


def shown(cell: object) -> str:
    """Return a cell's text; NaN is a dash."""
    if isinstance(cell, Median):
        if not math.isfinite(cell.low):
            return shown(cell.value)
        return f'{shown(cell.value)} [{shown(cell.low)}, {shown(cell.high)}]'
    if isinstance(cell, float):
        if math.isnan(cell):
            return '–'
        return f'{cell:.4f}' if cell == 0 or 0.001 <= abs(cell) < 100 else f'{cell:.3g}'
    return str(cell)


def _sort_key(cell: object) -> object:
    value = getattr(cell, 'value', cell)  # of one with an interval
    if isinstance(value, float) and not math.isfinite(value):
        return '' if math.isnan(value) else math.copysign(1e308, value)  # as JavaScript reads numbers
    return value


def show_findings(console: Console, findings: Findings, last_stage_only: bool = False) -> None:
    """Print the summary in two tables, one of features and one of parameters, and the notes on how to read it."""

    def cell(value: Any) -> str:  # an interval on a line of its own
        text = shown(value)
        return text if isinstance(value, str) else text.replace(' [', '\n').replace(', ', '–').rstrip(']')

    rows = [row for row in findings.summary()
            if not last_stage_only or row['stage'] == list(findings.stages)[-1]]
    heads = {'stage': 'stage', 'method': 'method', 'cosine': 'cosine simi-\nlarity,\nper image',
             'l2': 'L2 distance,\nper image', 'pixel_cosine': 'cosine simi-\nlarity,\nper pixel',
             'cka': 'linear\nCKA', 'debiased_cka': 'CKA,\ndebiased'}
    print_table(console, 'Feature distortion, before vs after (medians with 95 % intervals)', list(heads.values()),
                [[cell(row[key]) for key in heads] for row in rows], texts=2)
    names = {
        **KINDS, 'mean_drift': 'mean drift', 'variance_drift': 'variance drift', 'reference': 'W, the value before'}
    summary = findings.change_summary()
    for some in (summary[i:i + 4] for i in range(0, len(summary), 4)):  # more do not fit side by side
        print_table(
            console, 'Relative change of parameters (Eq. 6), medians over layers',
            ('', *(str(row['method']) for row in some)),
            [[name, *(cell(row[key]) for row in some)] for key, name in names.items()], texts=0)
    for note in findings.notes[2 + len(findings.methods):]:
        console.print(f'Note: {note}', style='yellow', markup=False)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write columns of rows as CSV, with empty cells for what a row lacks."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval='', extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def number_rows(findings: Findings) -> Iterator[dict[str, object]]:
    """Yield all numbers of an analysis, as rows that have ``COLUMNS`` or some of them, among others."""
    for row in findings.summary():
        for key, (level, measure) in _OF_FEATURES.items():
            yield from _numbers(dict(row, level=level, measure=measure), row[key])
    for row in findings.class_summary():
        where = dict(row, level='class', measure='cosine_similarity')
        low, high = row['quartiles']
        yield dict(where, statistic='pixels', value=row['pixels'])
        yield dict(where, statistic='pixel_lower_quartile', value=low)
        yield dict(where, statistic='pixel_median', value=row['pixel_cosine'])
        yield dict(where, statistic='pixel_upper_quartile', value=high)
        yield dict(where, measure='l2_distance', statistic='pixel_median', value=row['pixel_l2'])
        yield from _numbers(dict(where, measure='image_mean_cosine_similarity'), row['image_cosine'])
    for stage, meters in findings.stages.items():
        for method, meter in meters.items():
            where = dict(method=method, stage=stage)
            for image in meter.images:
                which = dict(where, level='image', image=findings.images[image.number], statistic='value')
                yield dict(which, measure='cosine_similarity', value=image.cosine_similarity)
                yield dict(which, measure='l2_distance', value=image.l2_distance)
                yield dict(which, measure='pixel_mean_cosine_similarity', value=image.pixel_cosine)
                for class_, cosine in image.class_cosine.items():
                    yield {**which, 'level': 'class', 'class': findings.classes[class_],
                           'measure': 'image_mean_cosine_similarity', 'value': cosine}
            histograms = {'cosine_similarity': meter.pixel_cosine, 'l2_distance': meter.pixel_distance}
            for measure, histogram in histograms.items():
                bounds = histogram.bounds.tolist()
                for i in histogram.counts.nonzero()[0].tolist():
                    yield dict(where, level='pixel', measure=measure, bin_low=bounds[i], bin_high=bounds[i + 1],
                               statistic='count', value=int(histogram.counts[i]))
    for method, changes in findings.changes.items():
        where = dict(level='layer', method=method, statistic='value')
        for tensor, value in changes.changes.items():
            yield dict(where, measure=f'relative_change_{tensor.kind}', stage=tensor.stage, layer=tensor.layer,
                       value=value)
        for layer, drift in changes.drift.items():
            for measure, value in zip(('mean', 'log_variance'), drift, strict=True):
                yield dict(where, measure=f'bn_drift_{measure}', layer=layer, value=value)


def _numbers(where: dict[str, object], value: object) -> Iterator[dict[str, object]]:
    """Yield a number, or a median and its interval."""
    named = {'value': value} if isinstance(value, float) else dict(
        zip(('median', 'interval_low', 'interval_high'), value, strict=True))
    for statistic, number in named.items():
        yield dict(where, statistic=statistic, value=number)


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
    return [dict(zip(KEYS, key, strict=True), runs=len(paths), mean=float(np.mean(numbers)),
                 standard_deviation=float(np.std(numbers, ddof=1))) for key, numbers in values.items()]


def _summary(path: Path) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], list[float]] = {}
    try:
        with path.open(newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                if row['level'] == 'layer':
                    row['stage'] = ''
                elif row['level'] != 'stage' and (row['level'] == 'class' or row['statistic'] != 'median'):
                    continue
                found.setdefault(tuple(row[key] for key in KEYS), []).append(float(row['value']))
    except FileNotFoundError as error:
        raise ValueError(f'There is no {path}. mmseg-daft analyze --out DIR writes DIR/numbers.csv.') from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path} is not the numbers.csv of mmseg-daft analyze ({error!r}).') from error
    if not found:
        raise ValueError(f'{path} holds no numbers. Run mmseg-daft analyze again.')
    return {key: float(np.median(values)) for key, values in found.items()}
