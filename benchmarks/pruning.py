"""Would a pruner have found the same rates? Replayed on recorded curves of whole searches.

    python benchmarks/pruning.py [--curves CURVES.json] [--prune-at 50] [--kept 34 50]

In rounds, so that the answer does not depend on who trains first: all rates of a step train to a checkpoint, and those
go on whose best value so far is among the best KEPT percent there: the rule of Optuna's PercentilePruner; 50 is that of
its MedianPruner.
The second step's rivals are its rates and the winner of the first, which costs nothing any more. Where the replay finds
another winner there, the table shows that, and the second step is replayed from the recorded one.

CURVES is a list of runs, dict(method, step, seed, rates=[backbone_lr, head_lr], values={iteration: metric}), each to
its end; of several seeds the mean counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

Rates = tuple[float, ...]
Curves = dict[Rates, dict[int, float]]
CURVES = Path(__file__).with_name('sweep_curves_camvid.json')


def read(path: Path) -> dict[str, list[Curves]]:
    """Return for each method its steps: the mean over the seeds by rates, from the largest rate, and iteration."""
    runs: dict[tuple[str, int, Rates], list[dict[int, float]]] = {}
    for run in json.loads(path.read_text()):
        values = {int(at): value for at, value in run['values'].items()}
        runs.setdefault((run['method'], int(str(run['step'])[-1]), tuple(run['rates'])), []).append(values)
    methods: dict[str, dict[int, Curves]] = {}
    for method, step, rates in sorted(runs, key=lambda key: (key[1], [-rate for rate in key[2]])):
        seeds = runs[method, step, rates]
        methods.setdefault(method, {}).setdefault(step, {})[rates] = {
            at: fmean(values[at] for values in seeds) for at in sorted(seeds[0])}
    return {method: list(steps.values()) for method, steps in methods.items()}


def at_end(curves: Curves, rates: Rates) -> float:
    """Return the metric of the final model."""
    return curves[rates][max(curves[rates])]


def best(curves: Curves) -> Rates:
    """Return who ends best; of equal ones the first."""
    return max(curves, key=lambda rates: at_end(curves, rates))


def survivors(curves: Mapping[Rates, Mapping[int, float]], iteration: int, kept: float) -> list[Rates]:
    """Return who goes on from a checkpoint."""
    least = np.percentile([values[iteration] for values in curves.values()], 100 - kept)
    return [rates for rates, values in curves.items()
            if max(value for at, value in values.items() if at <= iteration) >= least]


def replay(steps: list[Curves], prune_at: Sequence[int], kept: float) -> dict[str, Any]:
    """Return what a method's search finds and spends, beside the whole search."""
    champion: Curves = {}
    pruned, recorded, worse, spent, whole = (), (), 0.0, 0, 0
    for curves in steps:
        rivals = alive = {**champion, **curves}
        reached, end = dict.fromkeys(curves, 0), max(next(iter(curves.values())))
        for iteration in [*prune_at, end]:
            reached.update({rates: iteration for rates in alive if rates in curves})
            if iteration < end:
                alive = {rates: rivals[rates] for rates in survivors(alive, iteration, kept)}
        winner = best({**champion, **alive})
        champion = {best(rivals): rivals[best(rivals)]}
        if pruned == recorded:
            pruned, recorded = winner, best(rivals)
        worse = max(worse, at_end(rivals, best(rivals)) - at_end(rivals, winner))
        spent, whole = spent + sum(reached.values()), whole + len(curves) * end
    return dict(found=pruned == recorded, pruned=pruned, recorded=recorded, spent=spent, whole=whole, worse=worse)


def main() -> None:
    """Replay every method, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--curves', type=Path, default=CURVES)
    parser.add_argument('--prune-at', type=int, nargs='+', default=[50])
    parser.add_argument('--kept', type=float, nargs='+', default=[34, 50], help='percent')
    args = parser.parse_args()
    for kept in args.kept:
        rows = {method: replay(steps, args.prune_at, kept) for method, steps in read(args.curves).items()}
        print(f'\nat {", ".join(map(str, args.prune_at))} the best {kept:g} % go on\n')
        print('| method | same winner | pruned search | whole search | worse by | iterations |')
        print('|---|---|---|---|--:|--:|')
        for method, row in rows.items():
            rates = [', '.join(f'{rate:g}' for rate in row[key]) for key in ('pruned', 'recorded')]
            print(f'| {method} | {"yes" if row["found"] else "no"} | {" | ".join(rates)} | {row["worse"]:.2f} '
                  f'| {row["spent"] / row["whole"]:.0%} |')
        whole = sum(row['whole'] for row in rows.values())
        print(f'| all | {sum(row["found"] for row in rows.values())} of {len(rows)} | | | '
              f'| {sum(row["spent"] for row in rows.values()) / whole:.0%} |')


if __name__ == '__main__':
    main()
