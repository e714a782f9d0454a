"""A sweep's folder: its description, the command of each run, and the runs' folders."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmseg_daft.files import read_json, write_atomically
from mmseg_daft.run_output import final_checkpoint
from mmseg_daft.sweep.decision import Seen
from mmseg_daft.sweep.run import REPORT, Run
from mmseg_daft.sweep.run_folder import RunFolder
from mmseg_daft.sweep.sweep import Sweep

TOOLS = Path(__file__).resolve().parent
OF_THE_DAY = ('revision', 'directory')


@dataclass(frozen=True)
class Setup:
    """Everything that ``plan`` fixed.

    Attributes:
        sweep: The protocol.
        configs: The config of each method, as named.
        held_out: The part of the training images that selects.
        held_out_by: As of ``hold_out``; ``''`` for what suits the data set.
        held_out_seed: Of the held-out part.
        options: For all runs, as ``--cfg-options``.
        gpus_per_run: Processes of each run, on one machine; 0 trains on the CPU.
        revision: Of this repository, when planned.
        directory: Where ``plan`` was started: relative paths in the configs start there.
    """

    sweep: Sweep
    configs: dict[str, str]
    held_out: float
    held_out_by: str
    held_out_seed: int
    options: list[str] = field(default_factory=list)
    gpus_per_run: int = 1
    revision: str = ''
    directory: str = '.'

    def save(self, folder: Path) -> None:
        """Write ``sweep.json``.

        Raises:
            SystemExit: The folder holds another sweep, or its path cannot be an option of MMEngine's.
        """
        self.check_folder(folder)
        content, before = json.loads(json.dumps(self._content())), read_json(folder / 'sweep.json')
        if before is None:
            write_atomically(folder / 'sweep.json', content)
            return
        differs = sorted(key for key in content if before.get(key) != content[key] and key not in OF_THE_DAY)
        if differs:
            raise SystemExit(f'{folder} holds another sweep: it differs in {", ".join(differs)}. Name another folder, '
                             'or remove this one.')
        if not Path(before.get('directory', '.')).is_dir():  # it has moved
            write_atomically(folder / 'sweep.json', {**before, 'directory': self.directory})

    @staticmethod
    def check_folder(folder: Path) -> None:
        """Refuse a path that cannot be an option of MMEngine's."""
        if re.search(r'[\s,"\'\[\]()]', str(folder.resolve())):
            raise SystemExit(f'{folder.resolve()}: runs get paths in here as options, which MMEngine takes apart at '
                             'spaces, commas, quotes and brackets. Name another folder.')

    @classmethod
    def load(cls, folder: Path) -> Setup:
        """Read ``sweep.json``.

        Raises:
            SystemExit: There is none.
        """
        content = read_json(folder / 'sweep.json')
        if content is None:
            raise SystemExit(f'{folder} holds no sweep: start with tools/sweep.py plan {folder} --method …')
        return cls(sweep=Sweep.from_json(json.dumps(content.pop('sweep'))), **content)

    def _content(self) -> dict:
        return {**asdict(self), 'sweep': json.loads(self.sweep.to_json())}


def config_path(folder: Path, run: Run) -> Path:
    """Return the frozen config that a run trains with."""
    return folder.resolve() / 'configs' / f'{run.method}-{"report" if run.stage == REPORT else "select"}.py'


def run_folder(folder: Path, run: Run) -> RunFolder:
    """Return a run's folder."""
    return RunFolder(folder.resolve() / 'runs' / run.name)


def command_of(setup: Setup, folder: Path, run: Run, start: Path | None) -> list[str]:
    """Return the command that trains a run, from a checkpoint if it starts from another run."""
    options = [f'optim_wrapper.paramwise_cfg.{rate}={getattr(run, rate):g}' for rate in ('backbone_lr', 'head_lr')]
    options.append(f'randomness.seed={run.seed}')
    if start is not None:
        options += ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={start}']
    return [*_launch(setup, 'train.py'), str(config_path(folder, run)), '--resume', '--work-dir',
            str(run_folder(folder, run).work_dir), *_launcher(setup), '--cfg-options', *options]


def describe(setup: Setup, folder: Path, run: Run) -> RunFolder:
    """Write what a run is into its folder, and return that.

    Raises:
        SystemExit: The model that it starts from is gone, or the folder holds another run.
    """
    place, sweep, start = run_folder(folder, run), setup.sweep, None
    if not Path(setup.directory).is_dir():
        raise SystemExit(f'The sweep was planned in {setup.directory}, which is gone: give the plan command again, in '
                         'the directory where its relative paths now start.')
    if run.start is not None:
        start = final_checkpoint(run_folder(folder, run.start).work_dir, sweep.iterations)
        if start is None:
            raise SystemExit(f'{run.start.name} has a result, but its final checkpoint is gone; {run.name} starts from '
                             'it. Remove the result.json there to train it anew.')
    content = dict(
        method=run.method, stage=run.stage, backbone_lr=run.backbone_lr, head_lr=run.head_lr, seed=run.seed,
        start=run.start.name if run.start else None, iterations=sweep.iterations, metric=sweep.metric,
        config=setup.configs[run.method], revision=setup.revision, gpus=setup.gpus_per_run,
        directory=setup.directory, code=str(TOOLS),
        command=command_of(setup, folder, run, start),
        test_command=[*_launch(setup, 'test.py'), str(config_path(folder, run)), '--work-dir', str(place.path / 'test'),
                      *_launcher(setup)])
    try:
        place.describe(content)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    return place


def _launch(setup: Setup, script: str) -> list[str]:
    several = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(setup.gpus_per_run)]
    return [sys.executable, *(several if setup.gpus_per_run > 1 else []), str(TOOLS / script)]


def _launcher(setup: Setup) -> list[str]:
    return ['--launcher', 'pytorch'] if setup.gpus_per_run > 1 else []


def look(folder: Path, run: Run, in_queue: set[str] | None) -> Seen:
    """Return what is known of a run, given the jobs that the queue knows; where it is not known, a job is under way."""
    place = run_folder(folder, run)
    job = place.job()
    return place.seen(job is not None and (in_queue is None or job in in_queue))
