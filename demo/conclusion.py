"""What the demo's numbers say, in plain words."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from demo import NAMES, SETS

LEVEL = 1.0  # mIoU points below which two methods are level

Rows = Sequence[Mapping[str, Any]]


def conclude(rows: Rows, iterations: int) -> list[str]:
    """Compare DAFT with each other method.

    Args:
        rows: One for each run: ``method``, ``seed``, mIoU by set, and ``curve``, mIoU by iteration on daylight.
        iterations: How long each run trained.

    Returns:
        Some sentences for each other method; none without DAFT, or with DAFT alone.
    """
    daft = _of(rows, 'daft')
    others = list(dict.fromkeys(row['method'] for row in rows if daft and row['method'] != 'daft'))
    return [sentence for other in others for sentence in (
        _differences(daft, _of(rows, other), NAMES[other]), _speed(daft, _of(rows, other), NAMES[other], iterations))]


def _of(rows: Rows, method: str) -> Rows:
    return [row for row in rows if row['method'] == method]


def _differences(daft: Rows, other: Rows, name: str) -> str:
    """Say where DAFT is ahead: on average, and in every seed."""
    told: dict[str, list[str]] = {}
    for key, what in SETS.items():
        differences = [a[key] - b[key] for a, b in zip(daft, other, strict=True)]
        mean = fmean(differences)
        if abs(mean) < LEVEL or min(differences) * max(differences) <= 0:
            verdict = 'level with'
        else:
            verdict = 'ahead of' if mean > 0 else 'behind'
        told.setdefault(verdict, []).append(f'{what} ({mean:+.1f})')
    parts = [f'{verdict} {name} on {_listed(sets)}' for verdict, sets in told.items()]
    return f'DAFT is {", ".join(parts)}.'


def _speed(daft: Rows, other: Rows, name: str, iterations: int) -> str:
    """Say how soon DAFT had the other's final quality, or never had it."""
    reached = []
    for a, b in zip(daft, other, strict=True):
        final = b['curve'][max(b['curve'])]
        reached.append(min((step for step, value in a['curve'].items() if value >= final), default=None))
    if not any(reached):
        return f'It never reaches the final mIoU of {name} on daylight.'
    when = _listed([f'{"never" if step is None else step} (seed {row["seed"]})'
                    for step, row in zip(reached, daft, strict=True)])
    return f'It reaches the final mIoU of {name} on daylight after {when} of {iterations} iterations.'


def _listed(words: Sequence[str]) -> str:
    return ' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))
