"""Run a command as a subprocess, with its output in a log file, and follow an MMEngine run while it works."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class RunFailedError(RuntimeError):
    """A subprocess failed; the message holds the end of its log."""


def run_logged(
    command: Sequence[str],
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    poll: Callable[[], None] = lambda: None,
) -> None:
    """Run a command to its end; stdout and stderr go to a file, so that the console stays readable.

    Args:
        command: Program and arguments; no shell is involved.
        log: Where the output goes; overwritten.
        cwd: The working directory.
        env: The environment.
        poll: Called a few times a second meanwhile, for instance to move a progress bar.

    Raises:
        RunFailedError: The command did not exit with 0.
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
        raise RunFailedError(f'Exit status {process.returncode}. The end of {log}:\n\n{tail(log)}')


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log."""
    return '\n'.join(log.read_text(encoding='utf-8', errors='replace').splitlines()[-lines:])


def iterations_done(work_dir: Path) -> int:
    """Return how far a run of mmseg's ``train.py`` is, by the newest record of its local visualizer."""
    records = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = records[-1].read_text(encoding='utf-8').splitlines() if records else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)['step'])
        except (ValueError, KeyError):
            continue  # a line that is being written
    return 0


def conversion_summary(log: Path) -> list[str]:
    """Return what ``BNConversionHook`` logged about its conversion, without the logger's prefix."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    for i, line in enumerate(lines):
        _, found, rest = line.partition(' - BN conversion')
        if found:
            indented = [follower for follower in lines[i + 1:i + 20]]
            end = next((k for k, follower in enumerate(indented) if not follower.startswith('  ')), len(indented))
            return [f'BN conversion{rest}', *indented[:end]]
    return []


def test_metrics(work_dir: Path) -> dict[str, float]:
    """Return the metrics that mmseg's ``test.py`` wrote into its work directory.

    Raises:
        FileNotFoundError: It wrote none.
    """
    records = sorted(work_dir.glob('*/*.json'))
    if not records:
        raise FileNotFoundError(f'{work_dir} holds no metrics: has test.py run to its end?')
    return json.loads(records[-1].read_text(encoding='utf-8'))


test_metrics.__test__ = False  # pytest takes functions by their name
