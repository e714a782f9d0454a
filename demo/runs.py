"""The demo's runs, mmseg's own train.py and test.py on children of this repository's configs."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.logging import MMLogger

from demo import EVALUATIONS, NAMES, SETS
from mmseg_daft.launch.mmseg_script import script_path
from mmseg_daft.run_output import conversion_summary, iterations_done, records, run_logged, test_metrics

ROOT = Path(__file__).resolve().parent.parent
CONFIG = '{0}/{0}_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py'


class Run(NamedTuple):
    """A method and the seed of its training."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """What tables and pictures call it."""
        return f'{NAMES[self.method]}, seed {self.seed}'


@dataclass(frozen=True)
class Demo:
    """Train and test the demo's models.

    Attributes:
        folder: Holds the data, a work directory per run, and the results.
        iterations: How long each run trains.
        methods: What to compare, of ``'lp'``, ``'ft'``, ``'lpft'`` and ``'daft'``. LP-FT starts from LP.
        seeds: Of the trainings, one run each; the data are the same.
    """

    folder: Path
    iterations: int
    methods: Sequence[str]
    seeds: Sequence[int]

    def runs(self) -> Iterator[Run]:
        """Yield all runs, those of one method together."""
        return (Run(method, seed) for method in self.methods for seed in self.seeds)

    def work_dir(self, run: Run) -> Path:
        """Return a run's folder."""
        return self.folder / run.method / f'seed-{run.seed}'

    def checkpoint(self, run: Run) -> Path:
        """Return the path of a run's final checkpoint."""
        return self.work_dir(run) / f'iter_{self.iterations}.pth'

    def shipped(self, method: str) -> Config:
        """Return this repository's config of a method, on the demo's images in daylight."""
        MMLogger.get_current_instance().setLevel('ERROR')  # it would log SHAPES_ROOT each time
        cfg = Config.fromfile(ROOT / 'configs' / CONFIG.format(method), import_custom_modules=False)
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.data_root = str(self.folder / 'data' / 'day')
        return cfg

    def config(self, run: Run) -> Config:
        """Return a run's config: the shipped one, with seed, length, and evaluations of several sets at once."""
        cfg = self.shipped(run.method)
        cfg.custom_imports = dict(imports=['mmseg_daft', 'demo.folder_iou'])
        loader = cfg.val_dataloader
        for split, sets, images in (('val', ('day', 'night'), 32), ('test', SETS, None)):  # half of them, but often
            roots = {name: str(self.folder / 'data' / name) for name in sets}
            cfg[f'{split}_dataloader'] = dict(loader, dataset=dict(type='ConcatDataset', datasets=[
                dict(loader.dataset, data_root=root, indices=images) for root in roots.values()]))
            cfg[f'{split}_evaluator'] = [dict(type='FolderIoU', folder=root, iou_metrics=['mIoU'])
                                         for root in roots.values()]
        for metric in cfg.test_evaluator:
            metric.output_dir = str(self.work_dir(run) / 'test' / Path(metric.folder).name)
        interval = max(1, self.iterations // EVALUATIONS)
        cfg.train_cfg.update(max_iters=self.iterations, val_interval=interval)
        cfg.param_scheduler[0].end = self.iterations
        cfg.default_hooks.checkpoint.interval = self.iterations
        cfg.default_hooks.logger.interval = min(10, interval)
        cfg.randomness = dict(seed=run.seed)
        if run.method == 'lpft':
            cfg.model.init_cfg.checkpoint = str(self.checkpoint(Run('lp', run.seed)))
        return cfg

    def train(self, run: Run, report: Callable[[int], None]) -> list[str]:
        """Train a run from its start, and return what its conversion logged; nothing for a run without one.

        ``report`` is called a few times a second with the number of iterations done.
        """
        work_dir = self.work_dir(run)
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True)
        self.config(run).dump(work_dir / 'demo.py')
        self._run('train.py', work_dir / 'demo.py', '--work-dir', work_dir,
                  log=work_dir / 'train.log', poll=lambda: report(iterations_done(work_dir)))
        return conversion_summary(work_dir / 'train.log')

    def test(self, run: Run) -> dict[str, float]:
        """Test a run's final model on all images of each set: mIoU in percent.

        The predictions are left in ``test/SET`` of the run's folder, one PNG of class ids per image.
        """
        work_dir = self.work_dir(run)
        self._run('test.py', work_dir / 'demo.py', self.checkpoint(run), '--work-dir', work_dir / 'test',
                  log=work_dir / 'test.log')
        metrics = test_metrics(work_dir / 'test', 'day/mIoU')
        return {name: float(metrics[f'{name}/mIoU']) for name in SETS}

    def curve(self, run: Run) -> dict[str, dict[int, float]]:
        """Return the mIoU along a run, by set and iteration, on half of the images."""
        found = [record for record in records(self.work_dir(run)) if 'day/mIoU' in record]
        return {name: {int(record['step']): record[f'{name}/mIoU'] for record in found} for name in ('day', 'night')}

    @staticmethod
    def _run(script: str, *words: str | Path, log: Path, poll: Callable[[], None] = lambda: None) -> None:
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])))
        run_logged([sys.executable, str(script_path(script)), *map(str, words)], log, ROOT, env, poll)
