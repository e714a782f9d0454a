"""Fine-tune an ImageNet model to a new domain, with and without DAFT, on a CPU.

    python -m demo [--methods lp ft lpft daft]

Renders scenes of shapes, fine-tunes EfficientNet-Lite0 with a DeepLabv3+ decoder
to those in daylight by each method, and tests on other daylight images, at night
and on corrupted images, which no training has seen. It compares the methods in a
table, a picture and plain words. Every run is mmseg's own train.py or test.py on
a config of this repository.
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
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from demo import METHODS, NAMES, SETS
from demo.conclusion import LEVEL, conclude
from demo.render import RenderSettings, render_data_set

# demo.runs and mmseg_daft import torch: functions do so below, once the environment is set and a bar is on the console.
if TYPE_CHECKING:
    from demo.runs import Demo

CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(
        'python -m demo', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=(0, 1), metavar='N',
                        help='seeds of the trainings (default: 0 1); the images are always the same')
    parser.add_argument('--iterations', type=int, default=200, help='of each training (default: 200)')
    parser.add_argument('--quick', action='store_true', help='a few iterations: checks that everything runs, no more')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=('ft', 'daft'), metavar='METHOD',
                        help=f'which to compare, of {", ".join(METHODS)}; lpft starts from lp (default: ft daft)')
    parser.add_argument('--folder', type=Path, default=Path(__file__).resolve().parents[1] / 'work_dirs' / 'demo',
                        help='where everything is written (default: work_dirs/demo)')
    options = parser.parse_args()
    methods = [method for method in METHODS if method in options.methods]
    if 'lpft' in methods and 'lp' not in methods:
        parser.error('LP-FT starts from the head that LP trained: name lp, too.')
    if options.iterations < 1 or min(options.seeds) < 0:
        parser.error('--iterations has to be 1 or more, and --seeds 0 or more.')
    folder: Path = options.folder.resolve()
    claim(folder)
    seeds = list(dict.fromkeys(options.seeds))
    # OpenMP reads its variables when torch is imported. Its idle threads sleep instead of spinning: beside any other
    # busy process, spinning costs a factor of ten.
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, CORES // (len(methods) * len(seeds)))))
    os.environ.setdefault('GOMP_SPINCOUNT', '0')
    run_demo(folder, 4 if options.quick else options.iterations, options.quick, methods, seeds)


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


def run_demo(folder: Path, iterations: int, quick: bool, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """Render, train, evaluate, compare; leave ``results.json``, ``demo.png`` and a report in the demo's folder.

    Raises:
        SystemExit: A run failed. The console shows the end of its log.
    """
    start, console = time.perf_counter(), Console(highlight=False)
    console.print('[bold]Domain-Aware Fine-Tuning: demo[/]\n')
    if quick:
        console.print('[yellow]--quick: checks that everything runs; the numbers mean nothing.[/]\n')
    with bars(console, {'1  Render images': 1}) as (report,):
        few = dict(day_train=16, day_val=4, night_train=0, night_val=4) if quick else dict(night_train=0)
        render_data_set(folder / 'data', RenderSettings(**few))
        report(1)
        from demo.picture import draw_picture
        from demo.runs import Demo
        from mmseg_daft.analysis.measure import measure
        from mmseg_daft.analysis.report import write_report
        from mmseg_daft.files import write_atomically
        from mmseg_daft.run_output import RunFailedError

    demo = Demo(folder, iterations, methods, seeds)
    try:
        train(demo, console)
        rows = evaluate(demo, console, '3  Evaluate the models')
    except RunFailedError as error:
        console.print('[bold red]A run failed.[/]')
        console.print(str(error), markup=False)
        raise SystemExit(1) from None

    console.print('4  Measure the features, and draw')
    findings = measure(demo.shipped('ft'), {run.name: demo.checkpoint(run) for run in demo.runs()}, split='val',
                       batch_size=8, workers=0, console=console)
    names = {run.name: row for run, row in zip(demo.runs(), rows, strict=True)}
    for measured in findings.summary():  # the last stage of a run comes last
        names[measured['method']]['cosine_similarity'] = measured['cosine'].value
    sentences = conclude(rows, iterations)
    write_atomically(folder / 'results.json', dict(quick=quick, iterations=iterations, rows=rows, conclusion=sentences))
    write_report(folder / 'distortion', findings, ('png',), console)
    draw_picture(demo, findings, rows, folder / 'demo.png')
    show(console, rows, seeds, sentences)
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f'Picture: [bold]{here}/demo.png[/]\nReport:  {here}/distortion/report.html\n'
                  f'Numbers: {here}/results.json\nTime: {(time.perf_counter() - start) / 60:.1f} min', soft_wrap=True)


@contextmanager
def bars(console: Console, totals: dict[str, int], unit: str = '') -> Iterator[list[Callable[[float], None]]]:
    """Show progress bars, by title and total, with the time left; yield a function for each that moves it."""
    columns = (
        TextColumn('{task.description:<24}'), BarColumn(10), TextColumn('{task.completed:>4.0f} of {task.total:.0f}'),
        TextColumn(f'{unit:<10}'), TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        tasks = [progress.add_task(title, total=total) for title, total in totals.items()]
        yield [lambda done, task=task: progress.update(task, completed=done) for task in tasks]


def train(demo: Demo, console: Console) -> None:
    """Train all runs behind progress bars, one on each core; print what the first conversion reports."""
    runs = list(demo.runs())
    waiting = [run for run in runs if run.method == 'lpft']  # which starts where LP has ended
    summaries: list[list[str]] = []
    with bars(console, {f'2  Train {run.name}': demo.iterations for run in runs}, 'iterations') as reports:
        shown = dict(zip(runs, reports, strict=True))
        for group in ([run for run in runs if run not in waiting], waiting):
            with ThreadPoolExecutor(CORES) as pool:
                summaries += filter(None, pool.map(lambda run: demo.train(run, shown[run]), group))
    for line in summaries[0] if summaries else ():
        text = line.lstrip()
        console.print(Padding(Text(text), (0, 0, 0, 3 + len(line) - len(text))), style='cyan')


def evaluate(demo: Demo, console: Console, title: str) -> list[dict[str, Any]]:
    """Test each model; return for each run its method, seed, mIoU by set, and mIoU on daylight along the training."""
    runs = list(demo.runs())
    rows: list[dict[str, Any]] = []
    with bars(console, {title: len(runs)}, 'models') as (report,), ThreadPoolExecutor(CORES) as pool:
        for run, miou in zip(runs, pool.map(demo.test, runs), strict=True):
            curve = demo.curve(run)
            rows.append(dict(run._asdict(), **miou, curve=curve['day'], curve_night=curve['night']))
            report(len(rows))
    return rows


def show(console: Console, rows: Sequence[dict[str, Any]], seeds: Sequence[int], sentences: Sequence[str]) -> None:
    """Print the table and what it says."""
    table = Table(title=f'\nmIoU %, seeds {", ".join(map(str, seeds))}', title_style='bold')
    table.add_column('')
    for heading in ('daylight', 'night\n(unseen)', 'corrupted\n(unseen)', 'features: cosine\nsimilarity'):
        table.add_column(heading, justify='right')
    for method in dict.fromkeys(row['method'] for row in rows):
        mine = [row for row in rows if row['method'] == method]
        cells = ['  '.join(f'{row[key]:.1f}' for row in mine) for key in SETS]
        table.add_row(NAMES[method], *cells, '  '.join(f'{row["cosine_similarity"]:.2f}' for row in mine))
    console.print(table)
    for sentence in sentences:
        console.print(f'\n{sentence}', width=min(100, console.width))
    console.print(
        f'\nIn brackets is the difference of means over seeds; under {LEVEL:g} point, or where the seeds disagree, it '
        'is called level. The features are those of daylight images; similarity 1 means that training left them as '
        'they were. With more iterations the methods come closer on daylight: docs/demo.md.\n',
        width=min(100, console.width))


if __name__ == '__main__':
    main()
