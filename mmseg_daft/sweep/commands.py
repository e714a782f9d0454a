"""The commands that make a sweep's numbers anew."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any


def again(described: dict[str, Any], result: dict[str, Any], name: str) -> str:
    """Return a shell command that trains a run anew into ``$OUT/NAME``, and tests it where that made the number.

    It starts where the sweep was planned, since relative paths do, and resumes nothing.

    Args:
        described: The run's ``run.json``.
        result: Its ``result.json``, empty before there is one.
        name: The run's.
    """
    place = f'"$OUT"/{shlex.quote(name)}'
    train = [word for word in described['command'] if word != '--resume']
    parts = [f'cd {shlex.quote(described.get("directory") or ".")}', _into(place, train)]
    if result.get('tested'):
        checkpoint = f'{place}/{Path(result["checkpoint"]).name}'
        parts.append(f'{_into(f"{place}/test", described["test_command"])} {checkpoint}')
    return f'({" && ".join(parts)})'


def _into(place: str, command: list[str]) -> str:
    at = command.index('--work-dir') + 1
    return f'{shlex.join(command[:at])} {place} {shlex.join(command[at + 1:])}'.rstrip()


def commands(rows: list[dict[str, Any]]) -> str:
    """Return a script with the command behind each number."""
    lines = ['#!/usr/bin/env bash', '# The command behind each number, into a folder of its own in OUT.', 'set -e',
             'OUT=$(realpath -m "${OUT:?Name a new folder: OUT=FOLDER}")']
    for row in rows:
        if row['command']:
            value = '' if row['value'] is None else f', {row["metric"]} {row["value"]:.2f} ({row["split"]})'
            code = row['revision'] or 'unknown'
            lines += ['', f'# {row["name"]}: {row["state"]}{value}, code {code}', row['command']]
    return '\n'.join(lines) + '\n'
