"""What a run of mmseg's ``train.py`` left in its work directory, read without MMEngine."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmseg_daft.sweep.run_folder import write_whole


def records(work_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of MMEngine's local visualizer, of all starts, oldest first."""
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a line that a kill cut short
            if isinstance(record, dict):
                yield record


def iteration_of(work_dir: Path) -> int:
    """Return how far the run is."""
    return max((int(record['step']) for record in records(work_dir) if 'loss' in record), default=0)


def final_metrics(work_dir: Path, iterations: int, metric: str) -> dict[str, float] | None:
    """Return the last validation of the final model, or None where it is missing."""
    found = [record for record in records(work_dir) if metric in record and record.get('step') == iterations]
    return {key: value for key, value in found[-1].items() if isinstance(value, (int, float))} if found else None


def tested_metrics(folder: Path, metric: str) -> dict[str, float] | None:
    """Return what mmseg's ``test.py`` wrote last, or None."""
    for file in sorted(folder.glob('*/*.json'), reverse=True):
        try:
            content = json.loads(file.read_text(encoding='utf-8'))
        except ValueError:
            continue
        if metric in content:
            return content
    return None


def seconds_per_iteration(work_dir: Path) -> float | None:
    """Return the median over the second half of what was logged: the first iterations are slower."""
    times = [float(record['time']) for record in records(work_dir) if 'loss' in record and 'time' in record]
    return statistics.median(times[len(times) // 2:]) if times else None


def final_checkpoint(work_dir: Path, iterations: int) -> Path | None:
    """Return the final checkpoint, once MMEngine has named it the last one."""
    path, note = work_dir / f'iter_{iterations}.pth', work_dir / 'last_checkpoint'
    return path if path.is_file() and note.is_file() and Path(note.read_text().strip()).name == path.name else None


def last_saved_iteration(work_dir: Path) -> int:
    """Return the iteration of the newest ``iter_*.pth``, 0 without one."""
    return max((int(path.stem[5:]) for path in work_dir.glob('iter_*.pth') if path.stem[5:].isdigit()), default=0)


def diverged_at(work_dir: Path) -> int | None:
    """Return the iteration in which ``DivergenceHook`` ended the run, or None."""
    mark = work_dir / 'diverged.json'
    return int(json.loads(mark.read_text())['iteration']) if mark.is_file() else None


def is_number(value: float | None) -> bool:
    """Return whether a metric is one: NaN is what a broken model may evaluate to."""
    return value is not None and math.isfinite(value)


def mend_last_checkpoint(work_dir: Path) -> None:
    """Let ``last_checkpoint`` name a file that is there: MMEngine's way of writing it can be cut short by a kill.

    It names the newest ``iter_*.pth`` but one otherwise, as the newest may be half-written, or goes. The engine's way
    looks into the files, but needs MMEngine, and this room travels to the cluster without.
    """
    note = work_dir / 'last_checkpoint'
    if not note.is_file() or (note.read_text().strip() and Path(note.read_text().strip()).is_file()):
        return
    saved = sorted((p for p in work_dir.glob('iter_*.pth') if p.stem[5:].isdigit()), key=lambda p: int(p.stem[5:]))
    if len(saved) > 1:
        write_whole(note, str(saved[-2]))
    else:
        note.unlink()
