"""When does the conversion help? Fifteen shifts, each trained with it, without it, and with frozen statistics.

    export CAMVID_ROOT=/path/to/camvid SHAPES_ROOT=work_dirs/demo/data
    python -m demo.render $SHAPES_ROOT
    python benchmarks/shifts.py run [--shifts NAME ...] [--seeds 0 1 2] [--parallel 2] [--folder work_dirs/shifts]
    python benchmarks/shifts.py read [--folder work_dirs/shifts] [--out docs/shifts.csv]
    python benchmarks/shifts.py rule [docs/shifts.csv]

A shift is a start and a target domain. `run` trains each for 200 iterations with crops of 96, evaluates it on the
target and on a domain that it has not seen, and measures the domain gap; what is finished stays finished. `read`
gathers the numbers; `rule` tells how well what was measured before training foretells what the conversion brings, and
draws it beside the file.

The rule that was written down before these runs, from earlier ones on some shifts of the first half: convert where the
linear read-out of the source's features is better than that with adapted statistics. Thresholds are fitted as well,
always on the other shifts.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib.figure import Figure
from mmengine.config import Config
from rich.progress import track

from mmseg_daft.analysis.figures import figure_style, save_figure
from mmseg_daft.analysis.report import write_csv
from mmseg_daft.console import quiet

ROOT = Path(__file__).resolve().parents[1]
CAMVID, SHAPES = 'efficientnet-lite0_b8-200_camvid-96x96', 'efficientnet-lite0_b8-200_shapes-day-96x96'
STARTS = {'lite0': CAMVID, 'lite2': CAMVID, 'r18-day': 'r18-day_b8-200_camvid-dusk-160x160'}
CORRUPTED = {'contrast': ('contrast', 4), 'blur': ('defocus_blur', 4), 'noise': ('gaussian_noise', 3),
             'fog': ('fog', 3)}
MODES: dict[str, tuple[list[dict[str, Any]], dict[str, float]]] = {
    'conversion': ([dict(type='BNConversionHook')], dict(backbone_lr=0.1, head_lr=0.1)),
    'none': ([], dict(backbone_lr=0.1, head_lr=0.1)),
    'frozen': ([dict(type='BNTestModeHook', modules=('backbone',))], dict(backbone_lr=0.003, head_lr=0.3))}
COLUMNS = ('shift', 'half', 'mode', 'seed', 'seen', 'unseen', 'source', 'adapted', 'divergence')


@dataclass(frozen=True)
class Shift:
    """A start, a target domain, and a domain that training does not see.

    Attributes:
        half: 1 if a rule may be made from it, 2 if it was evaluated after the rule had been written down.
    """

    start: str
    target: str
    half: int

    @property
    def name(self) -> str:
        """Its name, of start and target."""
        return f'{self.start}_{self.target}'

    @property
    def unseen(self) -> str:
        """The domain that is tested and not trained on."""
        others = {'day': 'dusk', 'dusk': 'day', 'shapes-day': 'shapes-night', 'shapes-night': 'shapes-day'}
        return others.get(self.target, 'day')


SHIFTS = {shift.name: shift for shift in (
    *(Shift('lite0', target, 1) for target in ('day', 'dusk', 'shapes-day', 'shapes-night', 'contrast')),
    Shift('r18-day', 'dusk', 1), Shift('r18-day', 'contrast', 1),
    *(Shift('lite0', target, 2) for target in ('blur', 'noise', 'fog')),
    *(Shift('lite2', target, 2) for target in ('day', 'dusk', 'shapes-day', 'shapes-night')),
    Shift('r18-day', 'fog', 2))}


def ft_config(name: str) -> Config:
    """Read one of FT's configs."""
    return Config.fromfile(ROOT / 'configs' / 'ft' / f'ft_deeplabv3plus_{name}.py')


def data_config(domain: str) -> Config:
    """Return FT's config from EfficientNet-Lite0 on a domain, for training and test."""
    cfg = ft_config(SHAPES if domain.startswith('shapes') else CAMVID)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)  # each run has one core
        if domain in ('dusk', 'shapes-night'):
            loader.dataset.data_root = str(Path(loader.dataset.data_root).parent / domain.split('-')[-1])
        if domain in CORRUPTED:
            name, severity = CORRUPTED[domain]
            loader.dataset.pipeline.insert(1, dict(type='Corrupt', name=name, severity=severity))
    return cfg


def write_config(shift: Shift, domain: str, mode: str, path: Path) -> None:
    """Write the config of a shift's start on a domain, in one of the modes."""
    cfg = data_config(domain)
    classes = cfg.model.decode_head.num_classes
    model = ft_config(STARTS[shift.start]).model
    if shift.start == 'lite2':
        model.backbone.update(model_name='tf_efficientnet_lite2',
                              init_cfg=dict(type='Pretrained', checkpoint='efficientnet-lite://lite2'))
        model.decode_head.in_channels = 352
    model.decode_head.num_classes = classes
    model.data_preprocessor.size = cfg.model.data_preprocessor.size
    hooks, rates = MODES[mode]
    cfg.merge_from_dict(dict(model=dict(_delete_=True, **model), custom_hooks=hooks))
    cfg.optim_wrapper.paramwise_cfg.update(rates)
    cfg.default_hooks.checkpoint.save_optimizer = False
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(path)


def trainings(shift: Shift, seeds: Sequence[int], folder: Path) -> list[list[str]]:
    """Write the configs of a shift and return the commands that train and that are still to run."""
    here = folder / shift.name
    commands = []
    for mode in MODES:
        write_config(shift, shift.target, mode, here / f'{mode}.py')
        commands += [['train', str(here / f'{mode}.py'), '--work-dir', str(run), '--cfg-options',
                      f'randomness.seed={seed}'] for seed in seeds
                     if not (run := here / f'{mode}-{seed}').joinpath('iter_200.pth').is_file()]
    write_config(shift, shift.unseen, 'none', here / 'unseen.py')
    return commands


def examinations(shift: Shift, seeds: Sequence[int], folder: Path) -> list[list[str]]:
    """Return the commands that measure a shift's gap and evaluate its runs where they were not trained."""
    here = folder / shift.name
    runs = [f'{mode}-{seed}' for mode in MODES for seed in seeds]
    gap = here / 'gap' / 'gap.json'
    return [*([] if gap.is_file() else [['domain-gap', str(here / 'none.py'), '--out', str(gap.parent)]]),
            ['evaluate', str(here / 'unseen.py'), *(f'{run}={here / run}' for run in runs), '--workers', '0',
             '--formats', 'png', '--out', str(here / 'evaluate')]]


def run_all(shifts: Sequence[Shift], seeds: Sequence[int], folder: Path, parallel: int) -> None:
    """Train and examine, so many runs at a time.

    Raises:
        RuntimeError: A command failed; the others have been run.
    """
    for commands in (trainings, examinations):
        with quiet():
            waiting = [words for shift in shifts for words in commands(shift, seeds, folder)]
        with ThreadPoolExecutor(parallel) as pool:
            failed = [line for line in track(pool.map(_command, waiting), commands.__name__.capitalize(), len(waiting))
                      if line]
        if failed:
            raise RuntimeError('\n'.join(failed))


def _command(words: Sequence[str]) -> str:
    done = subprocess.run([sys.executable, '-m', 'mmseg_daft', *words], capture_output=True, text=True)
    return f'{" ".join(words)} failed: {done.stdout[-500:]}{done.stderr[-1500:]}' if done.returncode else ''


def read_rows(folder: Path, shifts: Sequence[Shift]) -> list[dict[str, Any]]:
    """Return a row for each run that was evaluated: mIoU in percent, and what was measured before training."""
    rows = []
    for shift in shifts:
        here = folder / shift.name
        if not (here / 'evaluate' / 'numbers.csv').is_file():
            continue
        gap = json.loads((here / 'gap' / 'gap.json').read_text(encoding='utf-8'))
        with (here / 'evaluate' / 'numbers.csv').open(encoding='utf-8', newline='') as file:
            unseen = {row['run']: float(row['value']) for row in csv.DictReader(file)
                      if row['measure'] == 'mIoU' and not row['against']}
        for run, value in unseen.items():
            mode, seed = run.split('-')
            scalars = max((here / run).glob('*/vis_data/scalars.json'))
            lines = [json.loads(line) for line in scalars.read_text(encoding='utf-8').splitlines()]
            seen = next(line['mIoU'] for line in reversed(lines) if 'mIoU' in line)
            rows.append(dict(
                shift=shift.name, half=shift.half, mode=mode, seed=int(seed), seen=round(seen, 2),
                unseen=round(100 * value, 2), source=round(100 * gap['accuracies']['source'], 2),
                adapted=round(100 * gap['accuracies']['adapted'], 2),
                divergence=round(median(row['divergence'] for row in gap['layers']), 4)))
    return rows


@dataclass(frozen=True)
class Case:
    """What one shift taught: means over the seeds, in points of mIoU, and what was known before.

    Attributes:
        seen, unseen: mIoU by mode.
        foretells: What a rule may look at.
    """

    name: str
    half: int
    seen: Mapping[str, float]
    unseen: Mapping[str, float]
    foretells: Mapping[str, float]

    def brings(self, domain: str) -> float:
        """What the conversion brings on a domain, ``seen`` or ``unseen``."""
        values = getattr(self, domain)
        return values['conversion'] - values['none']


def read_cases(path: Path) -> list[Case]:
    """Read what `read` wrote."""
    with path.open(encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    cases = []
    for name in dict.fromkeys(row['shift'] for row in rows):
        mine = [row for row in rows if row['shift'] == name]
        means = {domain: {mode: fmean(float(row[domain]) for row in mine if row['mode'] == mode) for mode in MODES}
                 for domain in ('seen', 'unseen')}
        source, adapted, divergence = (float(mine[0][key]) for key in ('source', 'adapted', 'divergence'))
        cases.append(Case(name, int(mine[0]['half']), **means, foretells={
            'difference of the read-outs': source - adapted, 'ratio of the read-outs': source / adapted,
            'read-out of the source': source, 'divergence, negative': -divergence}))
    return cases


def best_threshold(cases: Sequence[Case], key: str, domain: str) -> float:
    """Return the threshold above which to convert costs least, in mean mIoU of these shifts; the middle of a gap."""
    values = sorted({case.foretells[key] for case in cases})
    places = [values[0] - 1, *((a + b) / 2 for a, b in itertools.pairwise(values)), values[-1] + 1]
    return min(places, key=lambda place: regret(cases, lambda case: case.foretells[key] > place, domain))


def regret(cases: Sequence[Case], converts: Callable[[Case], bool], domain: str) -> float:
    """Return what a choice between conversion and none costs against the better one of each shift, in mean mIoU."""
    return fmean(max(0.0, -case.brings(domain) if converts(case) else case.brings(domain)) for case in cases)


def rules(cases: Sequence[Case], domain: str) -> list[dict[str, Any]]:
    """Return each rule's right choices and regret: fixed ones, and thresholds that the other shifts chose."""
    def row(name: str, choices: Sequence[bool]) -> dict[str, Any]:
        chosen = {case.name: choice for case, choice in zip(cases, choices, strict=True)}
        right = sum(choice == (case.brings(domain) > 0) for case, choice in zip(cases, choices, strict=True))
        return dict(rule=name, right=right, of=len(cases), regret=regret(cases, lambda c: chosen[c.name], domain))

    found = [row('always convert', [True] * len(cases)), row('never convert', [False] * len(cases)),
             row('difference of the read-outs above 0', [
                 case.foretells['difference of the read-outs'] > 0 for case in cases])]
    for key in cases[0].foretells:
        found.append(row(f'{key}, threshold from the other shifts', [
            case.foretells[key] > best_threshold([c for c in cases if c is not case], key, domain) for case in cases]))
    return found


def table_of_cases(cases: Sequence[Case]) -> str:
    """Return a row for each shift, in Markdown: what was known before, and mIoU in each mode, means of the seeds."""
    modes = ' | '.join(MODES)
    lines = [f'| shift | half | read-out, % | its difference | seen: {modes} | unseen: {modes} |', f'|---|{"--:|" * 9}']
    for case in cases:
        known = case.foretells['read-out of the source'], case.foretells['difference of the read-outs']
        numbers = [f'{values[mode]:.1f}' for values in (case.seen, case.unseen) for mode in MODES]
        lines.append(f'| {case.name.replace("_", " → ")} | {case.half} | {known[0]:.0f} | {known[1]:+.1f} | '
                     f'{" | ".join(numbers)} |')
    return '\n'.join(lines)


def table_of_rules(cases: Sequence[Case]) -> str:
    """Return a row for each rule, in Markdown: right choices and regret, on seen and unseen images."""
    lines = ['| rule | seen: right | regret | unseen: right | regret |', '|---|--:|--:|--:|--:|']
    for seen, unseen in zip(rules(cases, 'seen'), rules(cases, 'unseen'), strict=True):
        numbers = [f'{row["right"]} of {row["of"]} | {row["regret"]:.2f}' for row in (seen, unseen)]
        lines.append(f'| {seen["rule"]} | {" | ".join(numbers)} |')
    return '\n'.join(lines)


def draw(cases: Sequence[Case]) -> Figure:
    """Draw what the conversion brings against the difference of the read-outs."""
    figure = Figure((6.4, 3.6), layout='constrained')
    axis = figure.subplots()
    for name, marker, face in (('seen', 'o', 'C0'), ('unseen', 's', 'none')):
        axis.plot([case.foretells['difference of the read-outs'] for case in cases],
                  [case.brings(name) for case in cases], linestyle='', marker=marker, markerfacecolor=face,
                  markeredgecolor='C0' if name == 'seen' else 'C1', label=f'{name} domain')
    axis.axhline(0, color='0.6', linewidth=0.8)
    axis.axvline(0, color='0.6', linewidth=0.8)
    axis.set(xlabel='read-out of the source features less that with adapted statistics, points',
             ylabel='mIoU that the conversion brings')
    axis.legend()
    return figure


def show_rules(path: Path) -> None:
    """Print what each shift taught and how the rules did, in Markdown, and draw it beside the file."""
    cases = read_cases(path)
    print(table_of_cases(cases))
    for title, some in (('All shifts', cases), ('The second half', [case for case in cases if case.half == 2])):
        if len(some) > 2:
            print(f'\n{title}:\n\n{table_of_rules(some)}')
    with figure_style():
        save_figure(draw(cases), path.parent, path.stem, ['png'])


def main(argv: Sequence[str] | None = None) -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('run', 'read', 'rule'))
    parser.add_argument('csv', nargs='?', type=Path, default=ROOT / 'docs' / 'shifts.csv', metavar='CSV')
    parser.add_argument('--shifts', nargs='+', choices=list(SHIFTS), default=list(SHIFTS), metavar='NAME')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--parallel', type=int, default=2)
    parser.add_argument('--folder', type=Path, default=Path('work_dirs/shifts'))
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'shifts.csv')
    args = parser.parse_args(argv)
    shifts = [SHIFTS[name] for name in args.shifts]
    if args.what == 'run':
        run_all(shifts, args.seeds, args.folder, args.parallel)
    elif args.what == 'read':
        write_csv(args.out, COLUMNS, read_rows(args.folder, shifts))
    else:
        show_rules(args.csv)


if __name__ == '__main__':
    main()
