"""The demo: domain-aware fine-tuning against other ways, from nothing, in minutes on a CPU.

    python tools/demo.py [--methods lp ft lpft daft]

Renders scenes of shapes in two domains, pre-trains a small DeepLabv3+ on the source domain, fine-tunes
it to the target domain by each method, evaluates all models and compares them in one table and one
picture. Every run is mmseg's own train.py or test.py on a config of this repository.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from demo.render import render_data_set
from mmseg_daft.run_output import RunFailedError, conversion_summary

if TYPE_CHECKING:
    from demo.runs import Demo
    from mmseg_daft.analysis.findings import Findings

ROOT = Path(__file__).resolve().parent.parent
NAMES = {'source': 'source model', 'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT'}
METHODS = tuple(NAMES)[1:]
DOMAINS = ('target', 'source')


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='seed of the data and of all runs (default: 0)')
    parser.add_argument('--quick', action='store_true', help='a few iterations: checks that all runs, nothing more')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=('ft', 'daft'), metavar='METHOD',
                        help=f'of {", ".join(METHODS)}; lpft goes on from lp (default: ft daft)')
    parser.add_argument('--folder', type=Path, default=ROOT / 'work_dirs' / 'demo', help='where everything is written')
    options = parser.parse_args()
    methods = [method for method in METHODS if method in options.methods]
    if 'lpft' in methods and 'lp' not in methods:
        parser.error('LP-FT goes on from the head of LP: name lp, too.')
    folder: Path = options.folder.resolve()
    claim(folder)
    set_environment(folder)
    from demo.runs import Demo, quieten  # not before: OpenMP reads the environment when torch is imported

    quieten()
    console = Console(highlight=False)
    demo = Demo(folder, options.seed, options.quick, methods)
    try:
        run_demo(demo, console)
    except RunFailedError as error:
        console.print(f'[bold red]A run failed.[/] {shown(demo.folder)} holds its log.')
        console.print(str(error), markup=False)
        raise SystemExit(1) from None


def claim(folder: Path) -> None:
    """Make the folder the demo's, or refuse one that holds other things: the demo clears its runs there."""
    if re.search(r'[\s,"\'\[\]()]', str(folder)):
        raise SystemExit(f'{folder}: MMEngine takes options with paths apart at spaces, commas, quotes and brackets. '
                         'Name a --folder without.')
    marker = folder / '.mmseg_daft_demo'
    if folder.is_dir() and any(folder.iterdir()) and not marker.exists():
        raise SystemExit(f'{folder} holds files that are not the demo\'s. Name an empty or a new --folder.')
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()


def set_environment(folder: Path) -> None:
    """Tell the configs where the data are, and OpenMP to use all cores, unless the user chose.

    Idle OpenMP threads sleep instead of spinning: beside any other busy process, spinning costs a factor of ten.
    """
    os.environ['SHAPES_ROOT'] = str(folder / 'data')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    os.environ.setdefault('OMP_NUM_THREADS', str(cores or 1))
    os.environ.setdefault('GOMP_SPINCOUNT', '0')


def run_demo(demo: Demo, console: Console) -> None:
    """Render, train, evaluate, compare; leave ``results.json``, ``demo.png`` and a report in the demo's folder."""
    start = time.perf_counter()
    console.print('[bold]Domain-Aware Fine-Tuning: demo[/]\n')
    if demo.quick:
        console.print('[yellow]--quick: checks that everything runs; the numbers mean nothing.[/]\n')
    settings = demo.settings
    with bars(console, {'1  Render the two domains': 1}) as (report,):
        render_data_set(demo.folder / 'data', settings)
        report(1)
    train(demo, console, {'source': '2  Train the source model'})
    number = 3
    for group in side_by_side(demo.methods):
        train(demo, console, {run: f'{number + i}  Train: {NAMES[run]}' for i, run in enumerate(group)})
        number += len(group)
    miou = evaluate(demo, console, f'{number}  Evaluate all models')

    from demo.analysis import compare, draw  # mmseg is slow to import: after the first signs of life

    picture, results = demo.folder / 'demo.png', demo.folder / 'results.json'
    console.print(f'{number + 1}  Measure and draw')
    findings = compare(demo, NAMES, demo.folder / 'distortion', console)
    draw(demo, NAMES, findings, picture)
    last = {row['method']: row for row in findings.summary() if row['stage'] == list(findings.stages)[-1]}
    rows = {run: {f'miou_{domain}': miou[run][domain] for domain in DOMAINS} for run in miou}
    rows['source'].update(cosine_similarity=1.0, l2_distance=0.0)  # by definition: it is what the others left
    for run in demo.methods:
        found = last[NAMES[run]]
        rows[run].update(cosine_similarity=found['cosine'].value, l2_distance=found['l2'].value)
    seconds = time.perf_counter() - start
    results.write_text(
        json.dumps(dict(seed=demo.seed, quick=demo.quick, seconds=round(seconds, 1), rows=rows), indent=2) + '\n',
        encoding='utf-8')
    conclude(console, demo, rows, findings)
    console.print(f'Picture: [bold]{shown(picture)}[/]\nReport:  {shown(demo.folder / "distortion" / "report.html")}\n'
                  f'Numbers: {shown(results)}\nTime: {seconds / 60:.1f} min')


@contextmanager
def bars(console: Console, totals: dict[str, int], unit: str = '') -> Iterator[list[Callable[[int], None]]]:
    """Show progress bars, by title and total, with an estimate of the time left; yields functions that move them."""
    columns = (
        TextColumn('{task.description:<25}'), BarColumn(16), TextColumn('{task.completed:>4.0f} of {task.total:.0f}'),
        TextColumn(f'{unit:<10}'), TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        tasks = [progress.add_task(title, total=total) for title, total in totals.items()]
        yield [lambda done, task=task: progress.update(task, completed=done) for task in tasks]


def side_by_side(methods: Sequence[str]) -> list[list[str]]:
    """Return which methods train at once, one group after the other: LP-FT has to wait for LP."""
    later = [method for method in methods if 'lpft' in methods and method in ('lpft', 'daft')]
    return [group for group in ([m for m in methods if m not in later], later) if group]


def train(demo: Demo, console: Console, titles: dict[str, str]) -> None:
    """Train runs side by side, each behind a progress bar; of a conversion, show what its hook reports."""
    totals = {title: demo.iterations(run) for run, title in titles.items()}
    with bars(console, totals, 'iterations') as reports, ThreadPoolExecutor(len(titles)) as pool:
        logs = list(pool.map(demo.train, titles, reports))
    for log in logs:
        for line in conversion_summary(log):
            console.print(f'     {line}', markup=False, style='cyan', soft_wrap=True)


def evaluate(demo: Demo, console: Console, title: str) -> dict[str, dict[str, float]]:
    """Test each model on the validation images of both domains: mIoU by run and domain."""
    miou: dict[str, dict[str, float]] = {run: {} for run in ('source', *demo.methods)}
    tests = [(run, domain) for run in miou for domain in DOMAINS]
    # Two at a time: most of a test is the start of its process, on one core.
    with bars(console, {title: len(tests)}, 'tests') as (report,), ThreadPoolExecutor(2) as pool:
        results = pool.map(demo.test, *zip(*tests, strict=True))
        for done, ((run, domain), value) in enumerate(zip(tests, results, strict=True), start=1):
            miou[run][domain] = value
            report(done)
    return miou


def conclude(console: Console, demo: Demo, rows: dict[str, dict[str, float]], findings: Findings) -> None:
    """Print the table and how to read it."""
    from mmseg_daft.analysis.report import show_findings  # slow to import

    table = Table(title=f'\nSource to target domain, seed {demo.seed}', title_style='bold')
    table.add_column('')
    for heading in ('mIoU % on\ntarget', 'mIoU % on\nsource', 'features: cosine\nsimilarity', 'features: L2\ndistance'):
        table.add_column(heading, justify='right')
    for run, row in rows.items():
        table.add_row(
            NAMES[run], f'{row["miou_target"]:.2f}', f'{row["miou_source"]:.2f}',
            f'{row["cosine_similarity"]:.3f}', f'{row["l2_distance"]:.3f}')
    console.print(table)
    show_findings(console, findings, last_stage_only=True)
    console.print(
        'mIoU: higher is better; the target is what all but the source model were trained for. The two columns on its '
        "right are the feature distortion on the target's validation images, medians of stage 4: 1 and 0 mean "
        "that training left the source model's features as they were. From seed to seed the mIoU of so small a task "
        'varies by several points, so one demo illustrates the methods and ranks none.\n',
        width=min(100, console.width))


def shown(path: Path) -> str:
    """Return a path as short as it can be named from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == '__main__':
    main()
