"""What only a GPU can show: numbers that have to be right, and what the conversion costs there. `on_gpu.sh` starts it.

    python benchmarks/on_gpu.py [--device cpu] [--results DIR] [CHECK ...]

Each check of `gpu_checks.py` runs in a process of its own, so one that fails or hangs costs no other's numbers. The
exit status is 1 if a number was wrong or a check failed; a goal that was missed is only said. On a CPU all sizes are
toys.
"""

from __future__ import annotations

import os

os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # deterministic matrix products, before CUDA starts
os.environ.setdefault('MPLBACKEND', 'Agg')

import argparse
import faulthandler
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tests'))

import measure
import torch
from gpu_checks import CHECKS, Number, sizes_for

SECONDS = {'cuda': (465, 150), 'cpu': (3600, 600)}
"""How long all checks may take together, and each; a CPU may be busy with other things."""


@dataclass(frozen=True)
class Outcome:
    """What became of a check: its numbers and tables, or the end of what it printed."""

    check: str
    seconds: float
    numbers: list[Number] = field(default_factory=list)
    tables: Mapping[str, Any] = field(default_factory=dict)
    error: str = ''

    @property
    def failed(self) -> bool:
        """Whether it ended early or found a wrong number."""
        return bool(self.error) or any(number.wrong for number in self.numbers)


def run_here(check: str, device: torch.device, answer: Path) -> None:
    """Run a check in this process, and write what it found."""
    if device.type == 'cpu':
        torch.set_num_threads(1)
    faulthandler.dump_traceback_later(SECONDS[device.type][1] - 5)  # the last words of a check that hangs
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        numbers, tables = CHECKS[check](device, sizes_for(device), Path(folder))
    answer.write_text(json.dumps(dict(numbers=[asdict(number) for number in numbers], tables=dict(tables))))


def run_apart(check: str, device: torch.device, seconds: float) -> Outcome:
    """Run a check in a process of its own, and end it, with its workers, when its time is up."""
    start = time.perf_counter()
    if seconds <= 0:
        return Outcome(check, 0.0, error='not run: the time for all checks was up')
    environment = dict(os.environ, **({'CUDA_VISIBLE_DEVICES': ''} if device.type == 'cpu' else {}))
    with TemporaryDirectory() as folder:
        answer, log = Path(folder) / 'answer.json', Path(folder) / 'log'
        with log.open('wb') as output:
            process = subprocess.Popen(
                [sys.executable, __file__, '--device', str(device), '--answer', str(answer), check], stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = f'none after {seconds:.0f} s'
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        took = time.perf_counter() - start
        if status != 0 or not answer.is_file():
            printed = log.read_text(errors='replace').rstrip()
            return Outcome(check, took, error=f'exit status {status}; its last words:\n{printed[-3000:]}')
        found = json.loads(answer.read_text())
    return Outcome(check, took, [Number(**number) for number in found['numbers']], found['tables'])


def show(outcome: Outcome) -> None:
    """Print a check's numbers, and whether they are right."""
    print(f'{"FAILED" if outcome.failed else "passed"}  {outcome.check}  ({outcome.seconds:.0f} s)')
    for number in outcome.numbers:
        word = 'WRONG' if number.wrong else ''
        bound = f'  (at most {number.limit:g})' if number.limit is not None else ''
        if number.goal is not None:
            bound = f'  (goal {number.goal:g}: {"met" if round(number.value, 2) <= number.goal else "missed"})'
        print(f'  {word:5} {number.value:.3g}{bound}  {number.what}')
    if outcome.error:
        print('  ' + outcome.error.replace('\n', '\n  '))
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, print and write what they found, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checks', nargs='*', metavar='CHECK', help=f'default: all of {", ".join(CHECKS)}')
    parser.add_argument('--device', default='cuda', type=torch.device)
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    parser.add_argument('--answer', type=Path, help=argparse.SUPPRESS)  # run one check here and write it there
    args = parser.parse_args(argv)
    checks = args.checks or list(CHECKS)
    if unknown := sorted(set(checks) - set(CHECKS)):
        parser.error(f'there is no check {", ".join(unknown)}; there are {", ".join(CHECKS)}')
    if args.answer:
        run_here(*checks, args.device, args.answer)
        return 0
    if args.device.type == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('PyTorch sees no GPU here. --device cpu runs all checks at toy sizes.')
    start, outcomes, tables = time.perf_counter(), [], {}
    together, each = SECONDS[args.device.type]
    for check in checks:
        left = together - (time.perf_counter() - start)
        outcomes.append(run_apart(check, args.device, min(each, left)))
        show(outcomes[-1])
        measure.show(outcomes[-1].tables)
        tables |= outcomes[-1].tables
        found = [dict(check=outcome.check, seconds=outcome.seconds, error=outcome.error, failed=outcome.failed,
                      numbers=[asdict(number) for number in outcome.numbers]) for outcome in outcomes]
        path = measure.save('on_gpu', dict(checks=found), tables, args.device, args.results)  # a lease may end any time
    print(path)
    failed = [outcome.check for outcome in outcomes if outcome.failed]
    print(f'{len(failed)} of {len(outcomes)} checks failed: {", ".join(failed)}.' if failed else
          f'All {len(outcomes)} checks passed in {time.perf_counter() - start:.0f} s.')
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
