"""The two configs of each method in a sweep, frozen: one that selects by held-out images, one that is reported."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmseg_daft.engine import BNConversionHook
from mmseg_daft.engine.configs import read_config
from mmseg_daft.files import write_atomically
from mmseg_daft.sweep.held_out import hold_out
from mmseg_daft.sweep.setup import Setup

HOOKS = {'divergence': 'DivergenceHook', 'on_signal': 'CheckpointOnSignalHook'}
MEASURED = {'mIoU': ('aAcc', 'mIoU', 'mAcc'), 'mDice': ('aAcc', 'mDice', 'mAcc'),
            'mFscore': ('aAcc', 'mFscore', 'mPrecision', 'mRecall')}
BLOCKS = ('CamVidDataset',)  # recordings, whose neighbours are alike


def read(path: str, options: list[str]) -> Config:
    """Read a method's config with the sweep's options.

    Raises:
        SystemExit: There is none, or an option does not fit it.
    """
    if not Path(path).is_file():
        raise SystemExit(f'There is no config {path}.')
    try:
        return read_config(path, options)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SystemExit(f'--cfg-options {" ".join(options)}: not KEY=VALUE of {path} ({error}).') from error


def iterations_of(cfg: Config, path: str) -> int:
    """Return how long a config trains.

    Raises:
        SystemExit: By epochs.
    """
    iterations = (cfg.get('train_cfg') or {}).get('max_iters')
    if iterations is None:
        raise SystemExit(f"{path}: a sweep counts in iterations. Give it train_cfg = dict(type='IterBasedTrainLoop', "
                         'max_iters=…, val_interval=…), and schedules with by_epoch=False.')
    return int(iterations)


def metrics_of(evaluator: Any) -> set[str] | None:
    """Return what an evaluator measures; None where it holds another metric than mmseg's IoUMetric."""
    found: set[str] = set()
    for part in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        if part.get('type') != 'IoUMetric':
            return None
        prefix = f'{part["prefix"]}/' if part.get('prefix') else ''
        found |= {prefix + name for kind in part.get('iou_metrics', ['mIoU']) for name in MEASURED[kind]}
    return found


def freeze(setup: Setup, folder: Path) -> None:
    """Write both configs of every method, and the lists of images that they name.

    Frozen, because a sweep runs for days: what is edited meanwhile does not reach its later runs.

    Raises:
        SystemExit: A config cannot be swept; the message says why.
    """
    for method, path in setup.configs.items():
        cfg = read(path, setup.options)
        check(setup, method, cfg)
        prepare(setup, folder, cfg)
        report = copy.deepcopy(cfg)
        report.val_dataloader, report.val_evaluator = report.test_dataloader, report.test_evaluator
        selecting = copy.deepcopy(cfg)
        select_by_held_out(setup, folder, selecting)
        for name, frozen in (('report', report), ('select', selecting)):
            write_atomically(folder / 'configs' / f'{method}-{name}.py', frozen.pretty_text)


def check(setup: Setup, method: str, cfg: Config) -> None:
    """Refuse what cannot be swept, before anything runs."""
    def refuse(reason: str) -> None:
        raise SystemExit(f'{setup.configs[method]}: {reason}')

    if cfg.optim_wrapper.get('constructor') != 'DAFTOptimWrapperConstructor':
        refuse("a sweep sets backbone_lr and head_lr, which are DAFTOptimWrapperConstructor's: add "
               "optim_wrapper = dict(constructor='DAFTOptimWrapperConstructor').")
    for part in ('val_evaluator', 'test_evaluator'):
        measured, metric = metrics_of(cfg[part]), setup.sweep.metric
        if measured is not None and metric not in measured:
            refuse(f'its {part} measures {", ".join(sorted(measured))}, and {metric} selects: add it to iou_metrics '
                   'or name another one by --metric.')
    iterations_of(cfg, setup.configs[method])
    if cfg.train_cfg.get('max_iters') != setup.sweep.iterations:
        refuse(f'trains for {cfg.train_cfg.get("max_iters")} iterations, the others for {setup.sweep.iterations}.')
    protocol = setup.sweep.methods[method]
    rates = [rate for step in protocol.steps for rate in step.grid] + [r for r in protocol.fixed.values() if r]
    floor = max((s.get('eta_min', 0) or 0 for s in cfg.get('param_scheduler', [])), default=0)
    if floor > min(rates):
        refuse(f'the schedule ends at eta_min={floor:g}, above the rate {min(rates):g} of the grid; set it to 0.')


def prepare(setup: Setup, folder: Path, cfg: Config) -> None:
    """Let a config validate once, at its end, and carry the hooks that a sweep relies on."""
    cfg.train_cfg.val_interval = setup.sweep.iterations
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    present = {hook.get('type') for hook in [*hooks.values(), *cfg.get('custom_hooks', [])] if hook}
    for name, hook in HOOKS.items():
        if hook not in present:
            hooks[name] = dict(type=hook)
    if setup.gpus_per_run > 1:
        size = cfg.train_dataloader.batch_size
        if size % setup.gpus_per_run:
            raise SystemExit(f'{size} images cannot be shared by {setup.gpus_per_run} GPUs: name a divisor by '
                             '--gpus-per-run.')
        cfg.train_dataloader.batch_size = size // setup.gpus_per_run
    share_statistics(cfg, folder.resolve() / 'statistics')


def share_statistics(cfg: Config, folder: Path) -> None:
    """Let all conversions of the sweep share their statistics, where the hook can (``cache_dir``)."""
    if 'cache_dir' not in inspect.signature(BNConversionHook).parameters:
        return
    for hook in cfg.get('custom_hooks', []):
        if hook.get('type') == 'BNConversionHook':
            hook.setdefault('cache_dir', str(folder))


def select_by_held_out(setup: Setup, folder: Path, cfg: Config) -> None:
    """Hold images out of every part of the training set, and validate and test on them alone."""
    init_default_scope('mmseg')
    parts, held_parts = leaves(cfg.train_dataloader.dataset), []
    pipeline = leaves(cfg.val_dataloader.dataset)[0].pipeline
    for number, part in enumerate(parts):
        names = image_names(part)
        by = setup.held_out_by or fitting(part, names)
        try:
            kept, held = hold_out(names, setup.held_out, setup.held_out_seed, by)
        except ValueError as error:
            raise SystemExit(f'{part.type} at {part.get("data_root")}: {error}') from error
        held_part = copy.deepcopy(part)
        held_part.pipeline = pipeline
        for which, dataset, chosen in (('train', part, kept), ('held-out', held_part, held)):
            path = folder.resolve() / 'split' / f'{which}-{number}.txt'
            text = '\n'.join(chosen) + '\n'
            if path.is_file() and path.read_text() != text:
                raise SystemExit(f'{path} was written for other images: the methods have different training sets, or '
                                 'the data set has changed since. Name another folder.')
            write_atomically(path, text)
            dataset.ann_file = str(path)
        held_parts.append(held_part)
    whole = held_parts[0] if len(held_parts) == 1 else ConfigDict(type='ConcatDataset', datasets=held_parts)
    cfg.val_dataloader.dataset = whole
    cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy(cfg.val_dataloader), copy.deepcopy(cfg.val_evaluator)


def leaves(dataset: ConfigDict) -> list[ConfigDict]:
    """Return the data sets inside of wrappers such as ``ConcatDataset`` and ``RepeatDataset``."""
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    return [leaf for part in inner for leaf in leaves(part)] or [dataset]


def image_names(part: ConfigDict) -> list[str]:
    """Return a data set's images as lines of an ``ann_file``.

    Raises:
        SystemExit: Its files are not there.
    """
    place = f'{part.type} in {Path(part.get("data_root") or ".").absolute()}'
    try:
        dataset = DATASETS.build(dict(part, pipeline=[]))
    except (FileNotFoundError, AssertionError) as error:  # some of mmseg's data sets assert that their files exist
        raise SystemExit(f'{place}: its files are not there. Is it where its config says?') from error
    folder, suffix = Path(dataset.data_prefix['img_path']), dataset.img_suffix
    paths = [Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
    if not paths:
        raise SystemExit(f'{place}: it holds no images *{suffix}. Is it where its config says?')
    return [path.relative_to(folder).as_posix().removesuffix(suffix) for path in paths]


def fitting(part: ConfigDict, names: list[str]) -> str:
    """Return what is to stay together in a data set, where it was not said."""
    if part.type in BLOCKS:
        return 'block'
    return 'folder' if len({name.rpartition('/')[0] for name in names}) > 1 else 'image'
