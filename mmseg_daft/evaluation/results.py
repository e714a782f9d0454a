"""The numbers of an evaluation, from the files of its cells: each with its interval, and differences between runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_daft.evaluation import confusion
from mmseg_daft.evaluation.cells import CORRUPTED, OWN
from mmseg_daft.evaluation.confusion import ACCURACY, MIOU, Estimate, Measure, estimate
from mmseg_daft.evaluation.corruptions import group_of
from mmseg_daft.evaluation.store import Key, read_areas, read_confusion

Part = tuple[str, str, str]  # a measure, a set, and what of the corruptions: '' for none
Values = NDArray[np.float64]  # a number, and its replicates
ERROR = 'corruption error'
"""Of a classifier: 100 % less mPC, as in the paper's Table 4."""
COLUMNS = ('measure', 'run', 'against', 'set', 'corruption', 'severity', 'class', 'images', 'value', 'interval_low',
           'interval_high', 'verdict')


@dataclass
class Results:
    """What a report tells.

    Attributes:
        runs: Their names, the reference first.
        sets: By name, the run's classes that a set cannot have and that its mIoU leaves out; the own test set first.
        images: By set, the images' names.
        cells: What was read, in order.
        files: By run and cell.
        notes: What a reader has to know of data and models.
        measure: What the runs are judged by.
    """

    runs: Sequence[str]
    classes: Sequence[str]
    sets: Mapping[str, Sequence[str]]
    images: Mapping[str, Sequence[str]]
    cells: Sequence[Key]
    files: Mapping[tuple[str, Key], Path]
    notes: Sequence[str]
    measure: Measure = MIOU
    _score: dict[tuple[str, Key], Values] = field(default_factory=dict)
    _by_class: dict[tuple[str, Key], Values] = field(default_factory=dict)
    _accuracy: dict[tuple[str, Key], Values] = field(default_factory=dict)
    _by_image: dict[tuple[str, str], Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the files, one after the other."""
        for (run, key), path in self.files.items():
            areas = read_areas(path, len(self.classes))
            sums, judged = confusion.sums(areas), self.judged(key[0])
            self._score[run, key] = self.measure.overall(sums, judged)
            self._accuracy[run, key] = confusion.accuracy(sums)
            self._by_class[run, key] = self.measure.by_class(sums if not key[1] else sums[:1])
            if not key[1]:
                self._by_image[run, key[0]] = self.measure.overall(areas, judged)

    def judged(self, set_: str) -> NDArray[np.bool_]:
        """Return which classes count in a set's mIoU, ``(K,)``."""
        return np.array([name not in self.sets[set_] for name in self.classes])

    @property
    def reference(self) -> str:
        """The run that others are compared with."""
        return self.runs[0]

    @property
    def corruptions(self) -> list[str]:
        """The corruptions' names, in order."""
        return list(dict.fromkeys(corruption for _, corruption, _ in self.cells if corruption))

    @property
    def severities(self) -> list[int]:
        """The severities, in order."""
        return sorted({severity for _, _, severity in self.cells if severity})

    def grid(self, run: str, corruptions: Sequence[str] | None = None) -> Values:
        """Return a run's numbers ``(corruptions, severities, 1 + replicates)``, NaN where a cell was not asked for."""
        nothing = np.full_like(self._score[run, (OWN, '', 0)], np.nan)
        return np.array([[self._score.get((run, (OWN, corruption, severity)), nothing) for severity in self.severities]
                         for corruption in corruptions or self.corruptions])

    @cached_property
    def compared(self) -> dict[str, dict[Part, Values]]:
        """By run, in what it is compared: ``measure`` by set; mPC and rPC; mPC by group of corruptions and by each."""
        return {run: self._compared(run) for run in self.runs}

    def _compared(self, run: str) -> dict[Part, Values]:
        found = {(self.measure.name, set_, ''): self._score[run, (set_, '', 0)] for set_ in self.sets}
        if not self.corruptions:
            return found
        names = self.corruptions
        found['mPC', OWN, 'all'] = confusion.mean_performance(self.grid(run, names))
        found['rPC', OWN, 'all'] = confusion.relative_performance(self.grid(run, names), self._score[run, (OWN, '', 0)])
        groups = {group: [name for name in names if group_of(name) == group] for group in map(group_of, names)}
        for part, its in {**groups, **{name: [name] for name in names}}.items():
            found['mPC', OWN, part] = confusion.mean_performance(self.grid(run, its))
        return found

    @cached_property
    def degradation(self) -> dict[str, dict[str, dict[str, Values]]]:
        """By run, CD and rCD against the reference by corruption; their means are under ``'all'``."""
        return {run: self._degradation(run) for run in self.runs}

    def _degradation(self, run: str) -> dict[str, dict[str, Values]]:
        mine, its = self.grid(run), self.grid(self.reference)
        clean = [self._score[name, (OWN, '', 0)] for name in (run, self.reference)]
        degraded = {'CD': confusion.corruption_degradation(mine, its),
                    'rCD': confusion.relative_corruption_degradation(mine, clean[0], its, clean[1])}
        return {measure: {'all': values.mean(0), **dict(zip(self.corruptions, values, strict=True))}
                for measure, values in degraded.items()}

    @cached_property
    def headline(self) -> dict[str, dict[str, Estimate]]:
        """The most telling numbers, by name and run: ``measure`` of each set, then mPC, rPC, a classifier's error."""
        found = {self.title(part): {run: estimate(its[part]) for run, its in self.compared.items()}
                 for part in self.compared[self.reference] if part[2] in ('', 'all')}
        if self.corruptions and self.measure is ACCURACY:
            found[ERROR] = {run: estimate(1 - its['mPC', OWN, 'all']) for run, its in self.compared.items()}
        return found

    def title(self, part: Part) -> str:
        """Return the name of a number among the most telling ones."""
        return part[1] if part[0] == self.measure.name else part[0]

    @cached_property
    def differences(self) -> dict[tuple[str, str], dict[Part, Values]]:
        """By how much each run is better than each before it, in all that is compared."""
        return {(run, against): {part: values - self.compared[against][part]
                                 for part, values in self.compared[run].items()}
                for against, run in itertools.combinations(self.runs, 2)}

    def class_table(self) -> list[dict[str, Any]]:
        """Return a row for each run, set and class that it has: IoU or accuracy, and what it is most taken for.

        Under corruption, the first is the mean over all cells.
        """
        rows = []
        for run, set_ in itertools.product(self.runs, [*self.sets, *([CORRUPTED] if self.corruptions else [])]):
            keys = [key for key in self.cells if key[1]] if set_ == CORRUPTED else [(set_, '', 0)]
            values = confusion.mean_of_known(np.array([self._by_class[run, key] for key in keys]), 0)
            for number in np.flatnonzero(~np.isnan(values[0]) & self.judged(keys[0][0])):
                rows.append({'class': self.classes[number], 'set': set_, 'run': run,
                             'value': estimate(values[:, number]),
                             'taken_for': self._mistakes.get((run, set_), {}).get(int(number), '')})
        return rows

    @cached_property
    def _mistakes(self) -> dict[tuple[str, str], dict[int, str]]:
        found = {}
        for run, set_ in itertools.product(self.runs, self.sets):
            matrix = read_confusion(self.files[run, (set_, '', 0)], len(self.classes))
            pixels = matrix.sum(1)
            np.fill_diagonal(matrix, 0)
            found[run, set_] = {i: f'{self.classes[row.argmax()]} ({row.max() / pixels[i]:.0%})'
                                for i, row in enumerate(matrix) if row.any()}
        return found

    def image_table(self, most: int = 20) -> list[dict[str, Any]]:
        """Return the images of all sets whose ``measure`` differs most between two runs, the most different first."""
        rows = []
        for set_ in self.sets:
            values = np.array([self._by_image[run, set_] for run in self.runs])
            spread = values.max(0) - values.min(0)
            rows += [{'image': self.images[set_][i], 'set': set_, 'number': i, 'spread': float(spread[i]),
                      **{f'run {run}': float(value) for run, value in zip(self.runs, values[:, i], strict=True)}}
                     for i in np.flatnonzero(spread > 0).tolist()]
        return sorted(rows, key=lambda row: -row['spread'])[:most]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all numbers, as rows that have ``COLUMNS`` or some of them."""
        for run, key in itertools.product(self.runs, self.cells):
            where = dict(zip(('set', 'corruption', 'severity'), key, strict=True), run=run)
            where.update(severity=key[2] or '')
            yield self._row(dict(where, measure=self.measure.name), self._score[run, key])
            if self.measure is MIOU:
                yield self._row(dict(where, measure='pixel_accuracy'), self._accuracy[run, key])
            for number, name in enumerate(self.classes):
                values = self._by_class[run, key][:, number]
                if not np.isnan(values[0]):
                    yield self._row({**where, 'measure': self.measure.of_class, 'class': name}, values)
        for run in self.runs if self.corruptions else ():
            for (measure, set_, corruption), values in self.compared[run].items():
                if corruption:
                    yield self._row(dict(run=run, measure=measure, set=set_, corruption=corruption), values)
                if measure == 'mPC' and self.measure is ACCURACY:
                    where = dict(run=run, measure=ERROR.replace(' ', '_'), set=set_, corruption=corruption)
                    yield self._row(where, 1 - values)
            for measure, parts in self.degradation[run].items() if run != self.reference else ():
                for part, values in parts.items():
                    yield self._row(dict(run=run, against=self.reference, measure=measure, set=OWN, corruption=part),
                                    values)
        for (run, against), parts in self.differences.items():
            for (measure, set_, corruption), values in parts.items():
                where = dict(run=run, against=against, measure=f'{measure}_difference', set=set_, corruption=corruption)
                yield dict(self._row(where, values), verdict=estimate(values).verdict())

    def _row(self, where: Mapping[str, Any], values: Values) -> dict[str, Any]:
        value, low, high = estimate(values)
        return dict(where, images=len(self.images[where['set']]), value=value, interval_low=low, interval_high=high)
