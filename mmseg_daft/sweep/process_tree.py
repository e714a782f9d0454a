"""Signals for a process and all that descend from it, also in sessions of their own, as torchrun's workers are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

AGAIN = 5
"""Seconds between two signals: one that comes while a process starts is lost."""
LAST = 60
"""Seconds that what was killed gets to be gone."""


def tree(pid: int) -> list[int]:
    """Return a process and its descendants, as ``/proc`` shows them; the process first."""
    children: dict[int, list[int]] = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            parent = int((folder / 'stat').read_text(errors='replace').rpartition(')')[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def ask(pid: int, number: signal.Signals) -> None:
    """Send a signal to those of a tree that handle it or hold it back; the others would die of it."""
    for one in tree(pid):
        try:
            if _awaits(one, number):
                os.kill(one, number)
        except (OSError, ValueError):
            continue


def ask_until_it_ends(pid: int, number: signal.Signals, alive: Callable[[], bool], seconds: float) -> bool:
    """Ask a tree again and again to end; kill what is left of it after some time. Return whether it ended by itself."""
    deadline, next_time = time.monotonic() + seconds, 0.0
    while alive():
        if time.monotonic() > deadline:
            for one in reversed(tree(pid)):
                try:
                    os.kill(one, signal.SIGKILL)
                except OSError:
                    continue
            while alive() and time.monotonic() < deadline + LAST:
                time.sleep(0.1)
            return False
        if time.monotonic() >= next_time:
            ask(pid, number)
            next_time = time.monotonic() + AGAIN
        time.sleep(0.1)
    return True


def _awaits(pid: int, number: signal.Signals) -> bool:
    masks = dict(line.split(':\t') for line in Path(f'/proc/{pid}/status').read_text().splitlines()
                 if line.startswith(('SigCgt', 'SigBlk')))
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks.values())
