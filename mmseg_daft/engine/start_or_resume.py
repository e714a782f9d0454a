"""Tell a run's own checkpoint from its start where a config has ``load_from`` and the command ``--resume``."""

from __future__ import annotations

from pathlib import Path

from mmengine.runner import Runner

from mmseg_daft.engine.checkpoint_file import read_checkpoint


def settle_start(runner: Runner) -> None:
    """Let ``--resume`` go on from this run's own checkpoint, and ``load_from`` be what a new run starts from.

    MMEngine resumes from ``load_from`` itself, whatever the work directory holds: the first launch of a job that is
    always started with ``--resume`` would take the pre-trained model's iteration for its own and train nothing, and a
    later one would lose what it had trained. Named explicitly, a checkpoint in the work directory or of a run of the
    same name is still resumed, as MMEngine does. For a hook's ``before_run``; settled once, it stays.

    Raises:
        FileNotFoundError: There is no ``load_from``.
        ValueError: It is no checkpoint.
    """
    start = runner._load_from
    if not (runner._resume and start):
        return
    work_dir = Path(runner.work_dir)
    if _lies_in(start, work_dir):
        return
    if (work_dir / 'last_checkpoint').is_file():
        runner._load_from = None
        runner.logger.info(f'Resume: from the last checkpoint in {work_dir}. load_from={start!r} is what the run '
                           'started from.')
    elif not _is_of_the_same_name(start, runner):
        runner._resume = False
        runner.logger.info(f'Resume: {work_dir} holds no checkpoint yet, so the run starts, from the weights of '
                           f'load_from={start!r}. To go on from that file instead, copy it into the work directory and '
                           'name the copy.')


def _lies_in(path: str, work_dir: Path) -> bool:
    return '://' not in path and Path(path).resolve().parent == work_dir.resolve()


def _is_of_the_same_name(path: str, runner: Runner) -> bool:
    _, content = read_checkpoint(path)
    if 'message_hub' not in content or 'optimizer' not in content:
        return False  # weights alone, which MMEngine could not resume from
    return _without_time(content.get('meta', {}).get('experiment_name', '')) == _without_time(runner.experiment_name)


def _without_time(experiment: str) -> str:
    """Cut off the time of start, ``20261124_161001``, which MMEngine appends."""
    return '_'.join(experiment.split('_')[:-2])
