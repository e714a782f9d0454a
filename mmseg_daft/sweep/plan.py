"""What ``plan`` makes of the configs: frozen ones, held-out images that select, and a timing.

Each method has one that is reported and one that selects by the held-out part of the training images, or, of a
classifier, by the config's own validation images; where a step trains without the method's conversion, one more for it.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, PARAM_SCHEDULERS
from torch import nn

from mmseg_daft.engine.configs import (
    checkpoint_hook,
    further_domains,
    hook_of,
    hooks_of,
    is_classifier,
    length_of,
    model_of,
    optim_wrapper_without_amp,
    read_config,
    registered,
    type_name,
    unsaved_end,
)
from mmseg_daft.engine.training_data import leaf_datasets
from mmseg_daft.files import write_atomically
from mmseg_daft.launch.mmseg_script import NEEDED_TO_TRAIN
from mmseg_daft.run_output import iterations_done
from mmseg_daft.sweep.folder import RunFolder, SweepFolder
from mmseg_daft.sweep.job import Executor
from mmseg_daft.sweep.protocol import REPORT, Run, rate_text

ADDED = {'divergence': 'DivergenceHook', 'on_signal': 'CheckpointOnSignalHook'}
NEEDED = (*NEEDED_TO_TRAIN, 'val_dataloader', 'val_evaluator', 'test_dataloader', 'test_evaluator')
MEASURED = {'mIoU': ('aAcc', 'mIoU', 'mAcc'), 'mDice': ('aAcc', 'mDice', 'mAcc'),
            'mFscore': ('aAcc', 'mFscore', 'mPrecision', 'mRecall')}


def read(path: str, options: list[str]) -> Config:
    """Read a method's config with the sweep's options, as ``read_config``; raise ``SystemExit`` if it is not whole."""
    cfg = read_config(path, options, needs=NEEDED)
    unit, number = length_of(cfg)
    if not isinstance(number, int) or number < 1:
        raise SystemExit(f'{path}: a sweep has to know how long a run is. Give train_cfg.max_iters, or max_epochs, a '
                         f'whole number of at least 1 (max_{unit}s is {number}).')
    return cfg


def shape_of(path: str, cfg: Config) -> dict[str, Any]:
    """Return what a config says of all runs of its sweep: iterations, epochs and validation, as in ``SweepFolder``.

    Raises:
        SystemExit: It counts epochs, and its training data cannot be read.
    """
    unit, number = length_of(cfg)
    if unit == 'iter':
        return dict(iterations=number, epochs=0, validation=validation_of(cfg))
    with _building(path, 'train_dataloader'):
        an_epoch = len(Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader), seed=0))
    return dict(iterations=number * an_epoch, epochs=number, validation=validation_of(cfg))


def validation_of(cfg: Config) -> str:
    """Return whose images select, as in ``SweepFolder``."""
    if not is_classifier(cfg):
        return ''
    return 'test' if cfg.val_dataloader.dataset == cfg.test_dataloader.dataset else 'val'


def freeze(folder: SweepFolder) -> None:
    """Write the configs of every method, and the lists of images that they name.

    Frozen, because a sweep runs for days: what is edited meanwhile does not reach its later runs.

    Raises:
        SystemExit: A config cannot be swept; the message says why.
    """
    for method, named in folder.configs.items():
        cfg = read(named, folder.options)
        check(folder, method, cfg)
        prepare(folder, cfg)
        check_types(named, cfg)
        check_model(named, cfg, folder.sweep.methods[method].is_probe)
        report = copy.deepcopy(cfg)
        if folder.validation:
            test_on_validation(cfg)
        else:
            report.val_dataloader, report.val_evaluator = report.test_dataloader, report.test_evaluator
            select_by_held_out(folder, cfg)
        for frozen, evaluated in ((report, 'test_dataloader'), (cfg, 'val_dataloader')):
            for part in ('train_dataloader', evaluated):
                with _building(named, part):
                    Runner.build_dataloader(frozen[part], seed=0)
        with _building(named, 'test_cfg'):
            domains = further_domains(report.get('test_cfg'))  # which are read once all is trained
        for name, domain in domains.items():
            with _building(named, f'test_cfg.domains.{name}'):
                DATASETS.build(domain)
        frozen_configs = {REPORT: report} | {
            stage: cfg if step.converted else without_conversion(named, cfg)
            for stage, step in folder.sweep.methods[method].stages().items()}
        for stage, frozen in frozen_configs.items():
            write_atomically(folder.frozen_config(method, stage), frozen.pretty_text)


def check(folder: SweepFolder, method: str, cfg: Config) -> None:
    """Raise ``SystemExit`` where a config cannot be swept, before anything runs."""
    path, sweep, protocol = folder.configs[method], folder.sweep, folder.sweep.methods[method]
    if type_name({'type': cfg.optim_wrapper.get('constructor')}) != 'DAFTOptimWrapperConstructor':
        raise SystemExit(f"{path}: a sweep sets backbone_lr and head_lr, which are DAFTOptimWrapperConstructor's: add "
                         "optim_wrapper = dict(constructor='DAFTOptimWrapperConstructor').")
    for part in ('val_evaluator', 'test_evaluator'):
        measured = metrics_of(cfg[part])
        if measured is not None and sweep.metric not in measured:
            raise SystemExit(f'{path}: its {part} measures {", ".join(sorted(measured))}, and {sweep.metric} selects: '
                             'let it measure that, too (iou_metrics, topk), or name another one by --metric.')
    (unit, number), (other, wanted) = length_of(cfg), folder.length
    words = dict(iter='iterations', epoch='epochs')
    if (unit, number) != (other, wanted):
        raise SystemExit(f'{path}: trains for {number} {words[unit]}, the others for {wanted} {words[other]}.')
    if validation_of(cfg) != folder.validation:
        raise SystemExit(f'{path}: it is another task than the first method, or validates on other images. Name '
                         'configs of one task.')
    added = folder.validation and not checkpoint_hook(cfg)  # by prepare
    if not added and (problem := unsaved_end(cfg, by_unit=True)):
        raise SystemExit(f'{path}: {problem}')
    lowest = min([rate for step in protocol.steps if step.rates for rate in step.grid]
                 + [rate for rate in protocol.fixed.values() if rate], default=float('inf'))
    schedules = cfg.get('param_scheduler') or []
    schedules = [schedules] if isinstance(schedules, dict) else schedules
    floor = max((schedule.get('eta_min') or 0 for schedule in schedules), default=0)
    if floor > lowest:
        raise SystemExit(f'{path}: the schedule ends at eta_min={floor:g}, above the rate {rate_text(lowest)} of the '
                         'grid; set it to 0.')


def without_conversion(path: str, cfg: Config) -> Config:
    """Return a config with batch norm in eval mode in place of its conversion, in the modules that this would convert.

    Raises:
        SystemExit: There is no conversion, or batch norm is in eval mode beside it.
    """
    cfg = copy.deepcopy(cfg)
    if (hook := hook_of(cfg, 'BNConversionHook')) is None:
        raise SystemExit(f'{path}: has no BNConversionHook, and the second step of --search released converts. Name a '
                         'config with one, or leave the option out.')
    if hook_of(cfg, 'BNTestModeHook') is not None or cfg.model.get('backbone', {}).get('norm_eval'):
        raise SystemExit(f'{path}: keeps batch norm in eval mode, and the second step of --search released trains it. '
                         'Take BNTestModeHook and norm_eval out: the first step has them by itself.')
    modules = hook.get('modules', ('backbone',))
    hook.clear()
    hook.update(type='BNTestModeHook', modules=modules)
    return cfg


def check_types(path: str, cfg: Config) -> None:
    """Raise ``SystemExit`` where a hook, a loop, a schedule or a metric is of a type that does not exist.

    What has ``metrics`` is an evaluator, whose type is in a registry of its own.
    """
    evaluators = [evaluator for part in ('val_evaluator', 'test_evaluator')
                  for evaluator in (cfg[part] if isinstance(cfg[part], (list, tuple)) else [cfg[part]])]
    schedules = cfg.get('param_scheduler') or []
    for registry, parts in ((HOOKS, hooks_of(cfg)), (LOOPS, [cfg.train_cfg]), (METRICS, evaluators),
                            (PARAM_SCHEDULERS, [schedules] if isinstance(schedules, dict) else schedules)):
        for part in parts:
            if 'metrics' not in part and part.get('type') and registered(registry, part['type']) is None:
                raise SystemExit(f'{path}: there is no {registry.name} {part["type"]}. Is it misspelt, or its module '
                                 'missing in custom_imports?')


def check_model(path: str, cfg: Config, probe: bool = False) -> None:
    """Raise ``SystemExit`` where a config's model or its optimizer cannot be built, or a probe has no linear head."""
    with _building(path, 'model'):
        built = MODELS.build(model_of(cfg))
    with _building(path, 'optim_wrapper'):
        build_optim_wrapper(built, optim_wrapper_without_amp(cfg))
    if probe and not isinstance(getattr(built.head, 'fc', None), nn.Linear):
        raise SystemExit(f'{path}: LP of a classifier is mmseg-daft probe, which needs a LinearClsHead, not '
                         f'{type(built.head).__name__}.')


@contextmanager
def _building(path: str, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what a part refuses can be of any type
        told = error.args and not isinstance(error, OSError)  # whose first argument is a number
        what = (str(error.args[0]) if told else str(error) or repr(error)).rstrip('.')
        raise SystemExit(f'{path}: its {part} cannot be built: {what}. mmseg-daft doctor {path} says more.') from error


def metrics_of(evaluator: Any) -> set[str] | None:
    """Return what an evaluator measures, ``None`` where it holds others than IoUMetric and Accuracy."""
    found: set[str] = set()
    for part in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        if type_name(part) == 'Accuracy' and not isinstance(part.get('thrs'), (list, tuple)):
            topk = part.get('topk', 1)
            found |= {f'{part.get("prefix") or "accuracy"}/top{k}' for k in ([topk] if isinstance(topk, int) else topk)}
            continue
        if type_name(part) != 'IoUMetric':
            return None
        prefix = f'{part["prefix"]}/' if part.get('prefix') else ''
        kinds = part.get('iou_metrics', ['mIoU'])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if unknown := set(kinds) - set(MEASURED):
            raise SystemExit(f'iou_metrics={list(kinds)}: mmseg has no {", ".join(sorted(unknown))}; it has '
                             f'{", ".join(MEASURED)}.')
        found |= {prefix + name for kind in kinds for name in MEASURED[kind]}
    return found


def prepare(folder: SweepFolder, cfg: Config) -> None:
    """Let a config validate as a sweep needs it, carry its hooks, keep to its work directory, divide its batch."""
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if folder.validation:  # as often as the config says: the best model counts
        if not checkpoint_hook(cfg):
            hooks.checkpoint = dict(type='CheckpointHook', by_epoch=bool(folder.epochs))
        checkpoint_hook(cfg).update(save_best=folder.sweep.metric, rule='greater')
    else:  # at the end alone, where the final model counts
        cfg.train_cfg.val_interval = folder.length[1]
        for other in ('val_begin', 'dynamic_intervals'):
            cfg.train_cfg.pop(other, None)
    if folder.epochs and (logger := hook_of(cfg, 'LoggerHook')):
        logger.log_metric_by_epoch = True  # the job looks for an epoch's
    present = {type_name(hook) for hook in hooks_of(cfg)}
    hooks.update({name: dict(type=hook) for name, hook in ADDED.items() if hook not in present})
    if conversion := hook_of(cfg, 'BNConversionHook'):
        conversion.setdefault('statistics', f'{folder.path.resolve()}/statistics/{{pass}}.safetensors')
    # MMEngine puts checkpoints into out_dir/NAME_OF_WORK_DIR, which is the same for all runs.
    for hook in hooks_of(cfg):
        if type_name(hook) == 'CheckpointHook' or hook is checkpoint_hook(cfg):
            hook.pop('out_dir', None)
    size, gpus = cfg.train_dataloader.get('batch_size'), max(1, folder.gpus_per_run)
    if not isinstance(size, int) or size < 1:
        raise SystemExit(f'train_dataloader.batch_size={size}: give the number of images, 1 or more.')
    if size % gpus:
        raise SystemExit(f'{size} images cannot be shared by {gpus} GPUs: name a divisor by --gpus-per-run.')
    cfg.train_dataloader.batch_size = size // gpus


def test_on_validation(cfg: Config) -> None:
    """Let a config test on its validation images, and on nothing else."""
    cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy(cfg.val_dataloader), copy.deepcopy(cfg.val_evaluator)
    cfg.test_cfg = ConfigDict(type='TestLoop')


def select_by_held_out(folder: SweepFolder, cfg: Config) -> None:
    """Hold images out of every part of the training set, and validate and test on them alone."""
    held_parts, pipeline = [], leaf_datasets(cfg.val_dataloader.dataset)[0].pipeline
    for number, part in enumerate(leaf_datasets(cfg.train_dataloader.dataset)):
        names = image_names(part)
        folders = {name.rpartition('/')[0] for name in names}
        # Of a recording, neighbors are alike.
        suited = 'block' if type_name(part) == 'CamVidDataset' else 'folder' if len(folders) > 1 else 'image'
        try:
            kept, held = hold_out(names, folder.held_out, folder.held_out_seed, folder.held_out_by or suited)
        except ValueError as error:
            raise SystemExit(f'{type_name(part)} at {part.get("data_root")}: {error}') from error
        held_part = copy.deepcopy(part)
        held_part.pipeline = pipeline
        for which, dataset, chosen in (('train', part, kept), ('held-out', held_part, held)):
            path = folder.path.resolve() / 'split' / f'{which}-{number}.txt'
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


def image_names(part: ConfigDict) -> list[str]:
    """Return a data set's images as lines of an ``ann_file``."""
    place = f'{type_name(part)} in {Path(part.get("data_root") or ".").absolute()}'
    try:
        dataset = DATASETS.build(dict(part, pipeline=[]))
    except (FileNotFoundError, AssertionError) as error:  # some of mmseg's data sets assert that their files exist
        raise SystemExit(f'{place}: its files are not there. Is it where its config says?') from error
    prefix, suffix = Path(dataset.data_prefix['img_path']), dataset.img_suffix
    paths = [Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
    if not paths:
        raise SystemExit(f'{place}: it holds no images *{suffix}. Is it where its config says?')
    return [path.relative_to(prefix).as_posix().removesuffix(suffix) for path in paths]


def hold_out(names: Sequence[str], fraction: float, seed: int = 0, by: str = 'image') -> tuple[list[str], list[str]]:
    """Split names into those to train on and those held out, each in the given order, the same on every machine.

    VOC and Cityscapes publish the labels of train and val alone, and val is the split that is reported, so what
    selects a learning rate has to come out of train.

    Args:
        names: Of the training images, without repetition.
        fraction: How many to hold out at least, of all; whole groups are held out, twice as many at most.
        seed: Selects the part.
        by: What stays together. ``'image'``: nothing. ``'folder'``: a folder of the name, which is a city of
            Cityscapes; frames of one city are alike. ``'block'``: neighbors in a sorted recording, such as
            CamVid's, of which one stretch is held out.

    Raises:
        ValueError: The fraction is not between 0 and 1, a name comes twice, nothing would be left, or the groups are
            too large.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'{fraction} of the training images cannot be held out: name a part between 0 and 1.')
    if len(set(names)) != len(names):
        raise ValueError('An image is named twice, so it could be in both parts.')

    def number(text: str) -> int:
        return int(hashlib.sha256(f'{seed}:{text}'.encode()).hexdigest(), 16)

    wanted, held = fraction * len(names), set()
    if by == 'block':
        size = -int(-wanted // 1)
        first = number('block') % (len(names) - size + 1)
        held.update(sorted(names)[first:first + size])
    else:
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.rpartition('/')[0] if by == 'folder' else name, []).append(name)
        for group in sorted(groups, key=number):
            if len(held) < wanted:
                held.update(groups[group])
    if len(held) in (0, len(names)):
        raise ValueError(f'Holding out {fraction} of {len(names)} images by {by} leaves nothing to '
                         f'{"train on" if held else "select by"}: choose another part, or by="image".')
    if len(held) > 2 * math.ceil(wanted):
        raise ValueError(f'Holding out {fraction} of {len(names)} images by {by} would take {len(held)} in place of '
                         f'{math.ceil(wanted)}: name --held-out-by image, or another --held-out-seed.')
    return [name for name in names if name not in held], [name for name in names if name in held]


def probe(folder: SweepFolder, executor: Executor, iterations: int, progress: Callable[[str, int], None]) -> None:
    """Train each method a little, with its conversion and its validation, and write ``probe.json``.

    That is for a few iterations, or for as many epochs where the configs count these. ``progress`` is called with the
    method and its iterations so far, again and again. A failure is a ``SystemExit``.
    """
    timings, places, unit, length = {}, {}, *folder.length
    number, iterations = iterations, iterations * folder.sweep.iterations // length
    for method in folder.sweep.order():
        protocol = folder.sweep.methods[method]
        rates = {**protocol.fixed, **dict.fromkeys(protocol.steps[0].rates, protocol.steps[0].grid[0])}
        run = Run(method, 'step1', seed=folder.sweep.select_seeds[0], **rates)
        place = places[method] = RunFolder(folder.path.resolve() / 'probe' / f'{method}-{number}')
        base = protocol.starts_from
        start = Path(places[base].result()['checkpoint']) if base else None
        command = [*folder.train_command(run, place.work_dir, start),
                   f'train_cfg.max_{unit}s={number}', f'train_cfg.val_interval={number}',
                   f'default_hooks.checkpoint.interval={number}', 'default_hooks.logger.interval=1']
        place.describe(dict(command=command, test_command=folder.test_command(run, place.path / 'test'),
                            iterations=iterations, metric=folder.sweep.metric, directory=folder.directory,
                            **folder.ending(run, number)))
        if place.result() is None:
            executor.submit([place])
        while (result := place.result()) is None:
            queue = executor.in_queue()
            if queue is not None and place.job() not in queue and not place.is_locked() and place.result() is None:
                raise SystemExit(f'The probe of {method} failed; see {place.log}')
            progress(method, iterations_done(place.work_dir))
            time.sleep(0.5)
        progress(method, iterations)
        if result['diverged']:
            raise SystemExit(f'The probe of {method} diverged; see {place.log}')
        seconds = result['seconds_per_iteration'] or 0.0  # none of a classifier's LP, which takes no steps
        timings[method] = dict(seconds_per_iteration=seconds, iterations=iterations,
                               seconds_around=max(0.0, result['seconds'] - iterations * seconds))
    write_atomically(folder.path / 'probe.json', timings)
