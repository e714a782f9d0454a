"""Run a command with its output in a log, and read what mmseg's ``train.py`` and ``test.py`` left on disk.

The standard library alone: jobs on a cluster carry this module with them and start without torch.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from mmseg_daft.files import noted_checkpoint, tail

PROBE = 'probe.pth'
"""What ``mmseg-daft probe`` writes into its folder, whole or not at all."""


class RunFailedError(RuntimeError):
    """A run failed; the message holds the end of its log."""


def failure(status: int, log: Path) -> RunFailedError:
    """Return the error of a run that ended with this exit status."""
    return RunFailedError(f'Exit status {status}. The end of {log}:\n\n{tail(log)}')


def run_logged(
    command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str], poll: Callable[[], None] = lambda: None,
) -> None:
    """Run a command to its end; what it prints overwrites a log, so that the console stays readable.

    ``env`` is the whole environment; ``poll`` is called a few times a second, for instance to move a progress bar.

    Raises:
        RunFailedError: The exit status was not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w', encoding='utf-8') as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=dict(env))
        try:
            while process.poll() is None:
                poll()
                time.sleep(0.2)
        finally:
            if process.poll() is None:  # interrupted: do not leave the run behind
                process.terminate()
                process.wait()
    poll()
    if process.returncode:
        raise failure(process.returncode, log)


def records(work_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of MMEngine's local visualizer, of all starts of a run, oldest first."""
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            with suppress(ValueError):  # of a line that is being written, or that a kill cut short
                yield json.loads(line)


def iterations_done(work_dir: Path) -> int:
    """Return how many iterations a run has done, as far as it has logged them."""
    return max((int(record.get('step', 0)) for record in records(work_dir)), default=0)


def seconds_per_iteration(work_dir: Path) -> float | None:
    """Return the median over the second half of what was logged: the first iterations are slower."""
    times = [float(record['time']) for record in records(work_dir) if 'loss' in record and 'time' in record]
    return statistics.median(times[len(times) // 2:]) if times else None


def final_metrics(work_dir: Path, number: int, metric: str) -> dict[str, float] | None:
    """Return the metrics of the last validation after so many iterations (or epochs), or ``None`` without one."""
    found = [record for record in records(work_dir) if metric in record and record.get('step') == number]
    return {key: value for key, value in found[-1].items() if isinstance(value, (int, float))} if found else None


def test_metrics(work_dir: Path, metric: str = 'mIoU') -> dict[str, float]:
    """Return the metrics that mmseg's ``test.py`` wrote last into its work directory.

    Raises:
        FileNotFoundError: It wrote none, or not this one.
    """
    for file in sorted(work_dir.glob('*/*.json'), reverse=True):
        with suppress(ValueError):
            content = json.loads(file.read_text(encoding='utf-8'))
            if metric in content:
                return content
    raise FileNotFoundError(f'{work_dir} holds no {metric}: has test.py run to its end?')


def final_checkpoint(work_dir: Path, final: str, best: str = '') -> Path | None:
    """Return the model that counts, once the run is at its end.

    ``final`` names the last checkpoint, which MMEngine has to have noted, or the probe's, which nothing notes; ``best``
    is a pattern for the name of another one, that was best in a validation.
    """
    probe = work_dir / PROBE
    path = (probe if probe.is_file() else None) if final == PROBE else noted_checkpoint(work_dir)
    if path is None or path.name != final:
        return None
    return max(work_dir.glob(best), key=checkpoint_number, default=None) if best else path


def checkpoint_number(path: Path) -> int:
    """Return the iteration or the epoch in a checkpoint's name, 0 where there is none."""
    number = path.stem.rpartition('_')[2]
    return int(number) if number.isdigit() else 0


def last_saved_iteration(work_dir: Path) -> int:
    """Return the iteration of the newest ``iter_*.pth``, or the epoch of the newest ``epoch_*.pth``, 0 without one."""
    return max(map(checkpoint_number, [*work_dir.glob('iter_*.pth'), *work_dir.glob('epoch_*.pth')]), default=0)


def conversion_summary(log: Path) -> list[str]:
    """Return what ``BNConversionHook`` logged about its conversion, without the logger's prefix."""
    lines = iter(log.read_text(encoding='utf-8', errors='replace').splitlines())
    for line in lines:
        _, found, rest = line.partition(' - BN conversion')
        if found:
            return [f'BN conversion{rest}', *takewhile(lambda follower: follower.startswith('  '), lines)]
    return []
