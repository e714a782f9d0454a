"""Several analyses of the same methods, such as one a seed, in one table: mean and standard deviation over them.

    python tools/distortion_over_runs.py work_dirs/seed0/distortion/numbers.csv work_dirs/seed1/distortion/numbers.csv

takes the numbers.csv of tools/analyze_distortion.py and prints, by method, stage and measure, the mean ± the sample's
standard deviation of each analysis's own summary: medians over images or pixels, CKA, medians over layers. --out
writes them as CSV, too.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

COLUMNS = ('method', 'stage', 'level', 'measure', 'runs', 'mean', 'standard_deviation')


class Quantity(NamedTuple):
    """What a summary's number is of; ``stage`` is empty for a median over all layers."""

    method: str
    stage: str
    level: str
    measure: str


class Spread(NamedTuple):
    """A number over analyses."""

    mean: float
    standard_deviation: float


def summary(path: Path) -> dict[Quantity, float]:
    """Return an analysis's summary from its ``numbers.csv``.

    Raises:
        ValueError: There is no such file, or it is not one.
    """
    if not path.is_file():
        raise ValueError(f'There is no {path}. tools/analyze_distortion.py --out DIR writes DIR/numbers.csv.')
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
        raise ValueError(f'{path} is not the numbers.csv of tools/analyze_distortion.py ({error!r}).') from error
    found.update({quantity: statistics.median(values) for quantity, values in layers.items()})
    if not found:
        raise ValueError(f'{path} holds no numbers. Run tools/analyze_distortion.py again.')
    return found


def over_runs(paths: Sequence[Path]) -> dict[Quantity, Spread]:
    """Return mean and standard deviation of each quantity.

    Raises:
        ValueError: There are fewer than two files, one comes twice or is no analysis, or they hold different things.
    """
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise ValueError('A standard deviation needs two analyses or more, each once: name their numbers.csv.')
    summaries = [summary(path) for path in paths]
    for path, other in zip(paths[1:], summaries[1:], strict=True):
        differs = sorted(set(other) ^ set(summaries[0]))
        if differs:
            raise ValueError(f'{path} and {paths[0]} do not hold the same: {", ".join(filter(None, differs[0]))} is in '
                             'one of them alone. Analyse the same methods and stages, by the same names.')
    return {quantity: Spread(statistics.fmean(values := [each[quantity] for each in summaries]),
                             statistics.stdev(values)) for quantity in summaries[0]}


def write(spreads: dict[Quantity, Spread], runs: int, path: Path) -> None:
    """Write the table as CSV, six digits each."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        writer.writerows((*quantity, runs, *(f'{value:.6g}' for value in spread))
                         for quantity, spread in spreads.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('numbers', metavar='NUMBERS', nargs='+', type=Path, help='a numbers.csv of each analysis')
    parser.add_argument('--out', type=Path, help='write the table there, as CSV')
    args = parser.parse_args(argv)
    try:
        spreads = over_runs(args.numbers)
    except ValueError as error:
        print(f'distortion_over_runs: {error}', file=sys.stderr)
        return 1
    table = Table(*COLUMNS[:4], 'mean ± standard deviation', title=f'Over {len(args.numbers)} analyses')
    for quantity, spread in spreads.items():
        table.add_row(*quantity, f'{spread.mean:.3f} ± {spread.standard_deviation:.3f}')
    Console(width=100).print(table)
    if args.out:
        write(spreads, len(args.numbers), args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
