"""Time and memory of several ways to do the same, side by side in one run, and the machine they ran on."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / 'results'


def compare(
    ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, before: Callable[[], Any] = lambda: None,
    progress: bool = True, by_wall: bool = False,
) -> list[dict[str, Any]]:
    """Run every way once in every repeat, in turn, after a round to warm up; the first is what others are divided by.

    A ratio is taken within a repeat, between neighbors, so what slows the machine for longer than that cancels.
    On a CPU it is one of processor time, which other jobs on the machine disturb less than wall time.

    Args:
        ways: What to measure, by name.
        repeats: How often.
        device: Where it computes.
        before: Called before each, outside the time.
        progress: Show a bar; not over ways that show one of their own.
        by_wall: Divide wall times also on a CPU, where a way has processes of its own.

    Returns:
        For each way its name, seconds of all repeats (wall and processor), the median ratio with the quartiles, and
        the bytes of memory that it needs at its peak beyond what the first way needs at its own.
    """
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in track(range(repeats + 1), 'Measuring', transient=True) if progress else range(repeats + 1):
        for name, way in ways.items():
            before()
            _synchronize(device)
            start, start_processor = time.perf_counter(), time.process_time()
            way()
            _synchronize(device)
            if repeat:
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_processor)
    peaks = {}
    for name, way in ways.items():
        before()
        peaks[name] = _peak(way, device)
    first = next(iter(ways))
    seconds = processor if device.type == 'cpu' and not by_wall else wall
    rows = []
    for name in ways:
        ratios = [a / b for a, b in zip(seconds[name], seconds[first], strict=True)]
        rows.append({
            'name': name, 'seconds': wall[name], 'processor_seconds': processor[name],
            'ratio': statistics.median(ratios), 'quartiles': statistics.quantiles(ratios, n=4, method='inclusive')[::2],
            'extra_bytes': peaks[name] - peaks[first], 'peak_bytes': peaks[first]})
    return rows


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _peak(way: Callable[[], Any], device: torch.device) -> int:
    """Return the most memory that a process held while it did something: its own (Linux), or the GPU's."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        way()
        return torch.cuda.max_memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    way()
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) * 1024


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine, the versions, and how busy it was."""
    models = [line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines()
              if line.startswith('model name')]
    return {
        'processor': models[0] if models else platform.processor(), 'cores': os.cpu_count(),
        'threads': torch.get_num_threads(), 'load': os.getloadavg()[0], 'python': platform.python_version(),
        'torch': torch.__version__, 'date': time.strftime('%Y-%m-%d'),
        'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None}


def save(name: str, setting: Mapping[str, Any], tables: Mapping[str, list[dict[str, Any]]], device: torch.device,
         folder: Path = RESULTS) -> Path:
    """Write results as JSON, those of a GPU under a name of their own, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}_{device.type}.json'
    content = {'machine': machine(device), 'setting': dict(setting), 'tables': dict(tables)}
    path.write_text(json.dumps(content, indent=1) + '\n')
    return path


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a result's name, time, ratio with its quartiles, and extra memory, as text."""
    low, high = row['quartiles']
    extra = f'{row["extra_bytes"] / 2**20:+.0f} MiB ({row["extra_bytes"] / row["peak_bytes"]:+.1%})'
    return [row['name'], f'{statistics.median(row["seconds"]):.3f} s', f'{row["ratio"]:.2f}',
            f'{low:.2f}-{high:.2f}', extra]


HEADINGS = ['', 'median time', 'ratio', 'quartiles', 'memory at the peak']


def show(tables: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print results as tables."""
    for title, rows in tables.items():
        table = Table(*HEADINGS, title=title)
        for row in rows:
            table.add_row(*cells(row))
        Console().print(table)
