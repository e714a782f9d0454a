"""The demo's runs: mmseg's own train.py and test.py on this repository's configs, as a user starts them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from demo.render import RenderSettings
from mmseg_daft.launch.mmseg_script import script_path
from mmseg_daft.run_output import iterations_done, run_logged, test_metrics

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {
    'source': 'configs/source/source_deeplabv3plus_r18_b8-700_shapes-source-96x96.py',
    'lp': 'configs/lp/lp_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py',
    'ft': 'configs/ft/ft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py',
    'lpft': 'configs/lpft/lpft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py',
    'daft': 'configs/daft/daft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'}
DATA_CONFIGS = {'target': CONFIGS['ft'], 'source': CONFIGS['source']}


@dataclass(frozen=True)
class Demo:
    """One demo: where it writes, its seed, and whether it is only a quick check that everything runs.

    Attributes:
        folder: Holds the data, a work directory per run, and the results.
        seed: Of the data and of all runs.
        quick: A few images and iterations: the numbers mean nothing then.
        methods: Which are compared, of ``'lp'``, ``'ft'``, ``'lpft'`` and ``'daft'``; LP-FT goes on from LP.
    """

    folder: Path
    seed: int
    quick: bool
    methods: Sequence[str]

    @property
    def settings(self) -> RenderSettings:
        """What the data are rendered with."""
        if self.quick:
            return RenderSettings(self.seed, source_train=16, source_val=8, target_train=16, target_val=8)
        return RenderSettings(self.seed)

    def work_dir(self, run: str) -> Path:
        """Return the work directory of ``'source'`` or a method."""
        return self.folder / run

    def config(self, run: str) -> Config:
        """Return a run's config; the data are where SHAPES_ROOT of the environment says."""
        return Config.fromfile(ROOT / CONFIGS[run], import_custom_modules=False)

    def iterations(self, run: str) -> int:
        """Return how long a run trains: as its config says, unless quick."""
        return 4 if self.quick else int(self.config(run).train_cfg.max_iters)

    def checkpoint(self, run: str) -> Path:
        """Return the final checkpoint of a run."""
        return self.work_dir(run) / f'iter_{self.iterations(run)}.pth'

    def environment(self) -> dict[str, str]:
        """Return the environment of the runs: this one, and this package's place where it is not installed."""
        env = dict(os.environ)
        try:
            importlib.metadata.distribution('mmseg-daft')
        except importlib.metadata.PackageNotFoundError:
            env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        return env

    def train(self, run: str, report: Callable[[int], None]) -> Path:
        """Train a run anew and return its log.

        Args:
            run: ``'source'`` or a method.
            report: Called again and again with the number of iterations done.
        """
        work_dir, iterations = self.work_dir(run), self.iterations(run)
        shutil.rmtree(work_dir, ignore_errors=True)
        options = [f'randomness.seed={self.seed}']
        if run == 'lpft':
            options.append(f'model.init_cfg.checkpoint={self.checkpoint("lp")}')
        elif run != 'source':
            options.append(f'model.backbone.init_cfg.checkpoint={self.checkpoint("source")}')
        if self.quick:
            options += [
                f'train_cfg.max_iters={iterations}', f'train_cfg.val_interval={iterations}',
                f'param_scheduler.0.end={iterations}', f'default_hooks.checkpoint.interval={iterations}',
                'default_hooks.logger.interval=1']
        command = [sys.executable, str(script_path('train.py')), CONFIGS[run], '--work-dir', str(work_dir),
                   '--cfg-options', *options]
        log = work_dir / 'train.log'
        run_logged(command, log, ROOT, self.environment(), lambda: report(iterations_done(work_dir)))
        return log

    def test(self, run: str, domain: str) -> float:
        """Evaluate a run's final model on a domain's validation images and return its mIoU in per cent.

        The predictions stay beside, one PNG of class ids per image.
        """
        work_dir = self.work_dir(run) / f'test_{domain}'
        command = [
            sys.executable, str(script_path('test.py')), DATA_CONFIGS[domain], str(self.checkpoint(run)),
            '--work-dir', str(work_dir), '--out', str(self.predictions(run, domain))]
        run_logged(command, work_dir / 'test.log', ROOT, self.environment())
        return float(test_metrics(work_dir)['mIoU'])

    def predictions(self, run: str, domain: str) -> Path:
        """Return the folder of a run's predictions on a domain."""
        return self.work_dir(run) / f'test_{domain}' / 'predictions'


def quieten() -> None:
    """Keep MMEngine's notes and others' warnings off this process's console; runs keep theirs in their logs."""
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.filterwarnings('ignore')
