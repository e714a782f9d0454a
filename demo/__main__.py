"""Fine-tune a small model to a new domain, with and without DAFT, on a CPU.

    python -m demo [--methods lp ft lpft daft]

Renders scenes of shapes in two domains, pre-trains a small DeepLabv3+ on the
source domain, fine-tunes it to the target domain by each method, evaluates all
models, and compares them in one table and one picture. Every run is mmseg's own
train.py or test.py on a config of this repository.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from demo import DOMAINS, METHODS, NAMES
from demo.render import RenderSettings, render_data_set

# demo.runs and mmseg_daft import torch: functions do so below, once the environment is set and a bar is on the console.
if TYPE_CHECKING:
    from demo.runs import Demo
    from mmseg_daft.analysis.findings import Findings


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(
        'python -m demo', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='seed of the data and of all runs (default: 0)')
    parser.add_argument('--quick', action='store_true', help='a few iterations: checks that everything runs, no more')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=('ft', 'daft'), metavar='METHOD',
                        help=f'which to compare, of {", ".join(METHODS)}; lpft starts from lp (default: ft daft)')
    parser.add_argument('--folder', type=Path, default=Path(__file__).resolve().parents[1] / 'work_dirs' / 'demo',
                        help='where everything is written (default: work_dirs/demo)')
    options = parser.parse_args()
    methods = [method for method in METHODS if method in options.methods]
    if 'lpft' in methods and 'lp' not in methods:
        parser.error('LP-FT starts from the head that LP trained: name lp, too.')
    folder: Path = options.folder.resolve()
    claim(folder)
    set_environment(folder)
    run_demo(folder, options.seed, options.quick, methods)


def claim(folder: Path) -> None:
    """Mark a folder as the demo's, which clears its earlier runs there; refuse a folder that holds other things."""
    if re.search(r'[\s,"\'\[\]()]', str(folder)):
        raise SystemExit(f'{folder}: MMEngine splits options with paths at spaces, commas, quotes and brackets. '
                         'Choose a --folder without them.')
    marker = folder / '.mmseg_daft_demo'
    if folder.is_dir() and any(folder.iterdir()) and not marker.exists():
        raise SystemExit(f'{folder} holds files that are not the demo\'s. Choose an empty or a new --folder.')
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()


def set_environment(folder: Path) -> None:
    """Tell the configs where the data are, and OpenMP to use all cores, unless the user chose otherwise.

    OpenMP reads its variables when torch is imported. Its idle threads sleep instead of spinning: beside any other busy
    process, spinning costs a factor of ten.
    """
    os.environ['SHAPES_ROOT'] = str(folder / 'data')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    os.environ.setdefault('OMP_NUM_THREADS', str(cores or 1))
    os.environ.setdefault('GOMP_SPINCOUNT', '0')


def run_demo(folder: Path, seed: int, quick: bool, methods: Sequence[str]) -> None:
    """Render, train, evaluate, compare; leave ``results.json``, ``demo.png`` and a report in the demo's folder.

    Raises:
        SystemExit: A run failed. The console shows the end of its log.
    """
    start, console = time.perf_counter(), Console(highlight=False)
    console.print('[bold]Domain-Aware Fine-Tuning: demo[/]\n')
    if quick:
        console.print('[yellow]--quick: checks that everything runs; the numbers mean nothing.[/]\n')
    with bars(console, {'1  Render the two domains': 1}) as (report,):
        few = dict(source_train=16, source_val=8, target_train=16, target_val=8) if quick else {}
        render_data_set(folder / 'data', RenderSettings(seed, **few))
        report(1)
        from demo.picture import draw_picture
        from demo.runs import Demo, compare
        from mmseg_daft.files import write_atomically
        from mmseg_daft.run_output import RunFailedError

    demo = Demo(folder, seed, quick, methods)
    try:
        train(demo, console, {'source': '2  Train the source model'})
        titles = {run: f'{number}  Train: {NAMES[run]}' for number, run in enumerate(methods, start=3)}
        first = methods.index('lpft') if 'lpft' in methods else len(methods)  # run side by side; LP-FT waits for LP
        for group in filter(None, (methods[:first], methods[first:])):
            train(demo, console, {run: titles[run] for run in group})
        number = 3 + len(methods)
        rows = evaluate(demo, console, f'{number}  Evaluate all models')
    except RunFailedError as error:
        console.print('[bold red]A run failed.[/]')
        console.print(str(error), markup=False)
        raise SystemExit(1) from None

    console.print(f'{number + 1}  Measure and draw')
    findings = compare(demo, console)
    draw_picture(demo, findings, folder / 'demo.png')
    rows['source'].update(cosine_similarity=1.0, l2_distance=0.0)  # by definition: the others are compared with it
    runs = {NAMES[run]: run for run in methods}
    for row in findings.summary():  # the last stage of a method comes last
        rows[runs[row['method']]].update(cosine_similarity=row['cosine'].value, l2_distance=row['l2'].value)
    seconds = time.perf_counter() - start
    write_atomically(folder / 'results.json', dict(seed=seed, quick=quick, seconds=round(seconds, 1), rows=rows))
    conclude(console, seed, rows, findings)
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f'Picture: [bold]{here}/demo.png[/]\nReport:  {here}/distortion/report.html\n'
                  f'Numbers: {here}/results.json\nTime: {seconds / 60:.1f} min', soft_wrap=True)


@contextmanager
def bars(console: Console, totals: dict[str, int], unit: str = '') -> Iterator[list[Callable[[float], None]]]:
    """Show progress bars, by title and total, with the time left; yield a function for each that moves it."""
    columns = (
        TextColumn('{task.description:<25}'), BarColumn(10), TextColumn('{task.completed:>4.0f} of {task.total:.0f}'),
        TextColumn(f'{unit:<10}'), TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        tasks = [progress.add_task(title, total=total) for title, total in totals.items()]
        yield [lambda done, task=task: progress.update(task, completed=done) for task in tasks]


def train(demo: Demo, console: Console, titles: dict[str, str]) -> None:
    """Train runs, given with their titles, side by side behind progress bars; print what their conversions report."""
    totals = {title: demo.iterations(run) for run, title in titles.items()}
    with bars(console, totals, 'iterations') as reports, ThreadPoolExecutor(len(titles)) as pool:
        summaries = list(pool.map(demo.train, titles, reports))
    for line in (line for summary in summaries for line in summary):
        text = line.lstrip()
        console.print(Padding(Text(text), (0, 0, 0, 5 + len(line) - len(text))), style='cyan')


def evaluate(demo: Demo, console: Console, title: str) -> dict[str, dict[str, float]]:
    """Test each model on the validation images of both domains; return by run ``miou_target`` and ``miou_source``."""
    rows: dict[str, dict[str, float]] = {run: {} for run in ('source', *demo.methods)}
    tests = [(run, domain) for run in rows for domain in DOMAINS]
    # Two at a time: most of a test is the start of its process, on one core.
    with bars(console, {title: len(tests)}, 'tests') as (report,), ThreadPoolExecutor(2) as pool:
        results = pool.map(demo.test, *zip(*tests, strict=True))
        for done, ((run, domain), value) in enumerate(zip(tests, results, strict=True), start=1):
            rows[run][f'miou_{domain}'] = value
            report(done)
    return rows


def conclude(console: Console, seed: int, rows: dict[str, dict[str, float]], findings: Findings) -> None:
    """Print the tables and how to read them."""
    from mmseg_daft.analysis.report import show_findings

    table = Table(title=f'\nSource to target domain, seed {seed}', title_style='bold')
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
        '\nmIoU in the first table: higher is better. All models but the source model were trained for the target. The '
        "columns on its right are feature distortion on the target's validation images, as medians of stage 4: 1 and 0 "
        "mean that training left the source model's features as they were. On so small a task mIoU varies by several "
        'points from seed to seed, so one demo illustrates the methods and does not rank them.\n',
        width=min(100, console.width))


if __name__ == '__main__':
    main()
