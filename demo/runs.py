"""The demo's runs, mmseg's own train.py and test.py on this repository's configs, and how they are compared."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

from demo import NAMES
from mmseg_daft.analysis.findings import Findings
from mmseg_daft.analysis.measure import measure
from mmseg_daft.analysis.report import write_report
from mmseg_daft.launch.mmseg_script import script_path
from mmseg_daft.run_output import conversion_summary, iterations_done, run_logged, test_metrics

ROOT = Path(__file__).resolve().parent.parent
SOURCE = 'source/source_deeplabv3plus_r18_b8-700_shapes-source-96x96.py'
METHOD = '{0}/{0}_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'


@dataclass(frozen=True)
class Demo:
    """Train and test the demo's models.

    Attributes:
        folder: Holds the data, a work directory per run, and the results.
        seed: The seed of all runs.
        quick: Train for a few iterations only. The numbers then mean nothing.
        methods: The methods to compare, of ``'lp'``, ``'ft'``, ``'lpft'`` and ``'daft'``. LP-FT starts from LP.
    """

    folder: Path
    seed: int
    quick: bool
    methods: Sequence[str]

    def config(self, run: str) -> Config:
        """Read a run's config. The data are where ``SHAPES_ROOT`` of the environment says."""
        MMLogger.get_current_instance().setLevel('ERROR')  # it would log SHAPES_ROOT each time
        name = SOURCE if run == 'source' else METHOD.format(run)
        return Config.fromfile(ROOT / 'configs' / name, import_custom_modules=False)

    def iterations(self, run: str) -> int:
        """Return how long a run trains: as long as its config says, unless quick."""
        return 4 if self.quick else int(self.config(run).train_cfg.max_iters)

    def checkpoint(self, run: str) -> Path:
        """Return the path of a run's final checkpoint."""
        return self.folder / run / f'iter_{self.iterations(run)}.pth'

    def train(self, run: str, report: Callable[[int], None]) -> list[str]:
        """Train a run from its start, and return what its conversion logged; nothing for a run without one.

        Args:
            run: ``'source'`` or a method.
            report: Called a few times a second with the number of iterations done.
        """
        work_dir, iterations = self.folder / run, self.iterations(run)
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
        self._run('train.py', self.config(run).filename, '--work-dir', work_dir, '--cfg-options', *options,
                  log=work_dir / 'train.log', poll=lambda: report(iterations_done(work_dir)))
        return conversion_summary(work_dir / 'train.log')

    def test(self, run: str, domain: str) -> float:
        """Test a run's final model on a domain's validation images, and return its mIoU in percent.

        The predictions are left in ``RUN/test_DOMAIN/predictions``, one PNG of class ids per image.
        """
        work_dir = self.folder / run / f'test_{domain}'
        data = self.config('source' if domain == 'source' else 'ft').filename
        self._run('test.py', data, self.checkpoint(run), '--work-dir', work_dir, '--out', work_dir / 'predictions',
                  log=work_dir / 'test.log')
        return float(test_metrics(work_dir)['mIoU'])

    @staticmethod
    def _run(script: str, *words: str | Path, log: Path, poll: Callable[[], None] = lambda: None) -> None:
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])))
        run_logged([sys.executable, str(script_path(script)), *map(str, words)], log, ROOT, env, poll)


def compare(demo: Demo, console: Console) -> Findings:
    """Compare each method with the source model on the target's validation images, as ``mmseg-daft analyze`` does.

    The report goes to ``distortion`` in the demo's folder.
    """
    runs = {NAMES[run]: demo.checkpoint(run) for run in demo.methods}
    findings = measure(
        demo.config('ft'), runs, demo.checkpoint('source'), split='val', batch_size=8, workers=0, console=console)
    write_report(demo.folder / 'distortion', findings, ('png',), console)
    return findings
