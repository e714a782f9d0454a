"""What the command line of ``sweep.py plan`` describes, checked."""

from __future__ import annotations

import argparse
import dataclasses
import math

from mmseg_daft.sweep.protocol import Protocol, Step, protocols
from mmseg_daft.sweep.sweep import Sweep


def by_method(words: list[str]) -> dict[str, str]:
    """Return the configs of ``--method NAME=CONFIG`` by name.

    Raises:
        SystemExit: A method is misspelt, named twice, or has no config.
    """
    known, configs = protocols(), {}
    for word in words:
        name, _, config = word.partition('=')
        if name not in known:
            raise SystemExit(f'--method {word}: no protocol for {name!r}; there is one for {", ".join(known)}.')
        if not config:
            raise SystemExit(f'--method {word}: write NAME=CONFIG.')
        if name in configs:
            raise SystemExit(f'--method {name} is named twice: {configs[name]} and {config}. Keep one of them.')
        configs[name] = config
    return configs


def read_sweep(args: argparse.Namespace, iterations: int) -> Sweep:
    """Return what the command line describes.

    Raises:
        SystemExit: A method, a grid or a rate is none.
    """
    known, chosen, grids = protocols(args.start), {}, set()
    check_rate(args.fixed_head_lr, f'--fixed-head-lr {args.fixed_head_lr:g}')
    for name in by_method(args.methods):
        protocol = known[name]
        if 'head_lr' in protocol.fixed:
            protocol = dataclasses.replace(protocol, fixed={**protocol.fixed, 'head_lr': args.fixed_head_lr})
        chosen[name] = protocol
    for word in args.grid:
        place, _, values = word.partition('=')
        name, _, number = place.partition('.')
        steps = chosen[name].steps if name in chosen else ()
        if not number.isdecimal() or not 1 <= int(number) <= len(steps):
            raise SystemExit(f'--grid {word}: write NAME.STEP=RATE,… of a --method, such as ft.1=0.1,0.01')
        if (name, int(number)) in grids:
            raise SystemExit(f'--grid {place} is given twice. Keep one of them.')
        grids.add((name, int(number)))
        try:
            rates = tuple(float(value) for value in values.split(','))
        except ValueError:
            raise SystemExit(f'--grid {word}: rates are numbers with commas between, such as ft.1=0.1,0.01') from None
        for rate in rates:
            check_rate(rate, f'--grid {word}: {rate:g}')
        chosen[name] = with_grid(chosen[name], int(number) - 1, rates)
    try:
        return Sweep(chosen, tuple(args.select_seeds), tuple(args.report_seeds), args.metric, iterations)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def check_rate(rate: float, where: str) -> None:
    """Refuse what cannot be trained with."""
    if not (math.isfinite(rate) and rate > 0):
        raise SystemExit(f'{where} is no learning rate: name one above 0.')


def with_grid(protocol: Protocol, index: int, grid: tuple[float, ...]) -> Protocol:
    """Return a protocol with another grid in one step."""
    steps = [Step(step.rates, grid) if i == index else step for i, step in enumerate(protocol.steps)]
    return dataclasses.replace(protocol, steps=tuple(steps))
