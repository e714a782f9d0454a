"""Whether the parts of a config go together, and whether a training step with it runs and fits a GPU."""

import importlib.util
import inspect
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from math import ceil, isfinite, sqrt
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.fileio import list_from_file
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, LOOPS, OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS, Registry
from mmengine.registry import HOOKS as ALL_HOOKS
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.stdc_head import STDCHead
from mmseg.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer

from mmseg_daft.core.arguments import check_modules, part_to_convert
from mmseg_daft.core.batch_norm import find_batch_norms, why_not_convertible
from mmseg_daft.doctor.data import refuse_text
from mmseg_daft.doctor.finding import Finding, Problem, Verdict, describe, fail, ok, warn
from mmseg_daft.engine.configs import (
    hook_of,
    hooks_of,
    is_classifier,
    kinds_in,
    misspelt_keys,
    model_of,
    optim_wrapper_without_amp,
    read_config,
    registered,
    type_name,
    types_in,
)
from mmseg_daft.engine.hooks.effective_batch_hook import batch_fix
from mmseg_daft.engine.schedules import refuse_floor_above_rate, refuse_overwritten_rates, refuse_standstill
from mmseg_daft.engine.training_data import leaf_datasets

ENDS_AT_FLOOR = ('PolyLR', 'CosineAnnealingLR')  # at eta_min, 0 by default
GIB = 2**30
CARDS = (8, 11, 16, 24, 40, 80)
LARGEST = 330 * 330  # pixels of a crop that a CPU runs in seconds
IMAGES = 2  # batch norm after a global pooling needs more than one


def build_config(path: Path, options: Sequence[str]) -> Generator[Finding, None, Config]:
    """Read a config with the command's options, return it, and find misspelt keys.

    Raises:
        ConfigError: It cannot be read, is a part of a config, or an option does not fit.
    """
    cfg = read_config(path, options, needs=('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'))
    for key, meant in misspelt_keys(cfg).items():
        yield fail(f'{key}: nothing reads it, and there is no {meant}.', f'Rename it, if {meant} is meant.')
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build the model on the CPU, without its pre-trained weights and with plain batch norm for SyncBN."""
    try:
        return revert_sync_batchnorm(MODELS.build(model_of(cfg)))
    except Exception as error:
        missing = [name for name in _custom_imports(cfg) if not importlib.util.find_spec(name.split('.')[0])]
        fix = f'Install {", ".join(missing)}, which the config imports where it is installed.' if missing else ''
        raise Problem(describe(error), fix) from error


def _custom_imports(cfg: Config) -> list[str]:
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    return [names] if isinstance(names, str) else list(names)


def check_classes(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Compare the heads' classes with the data sets', and the label of padding with the one that losses ignore."""
    heads = {name: module for name, module in model.named_modules() if isinstance(module, BaseDecodeHead)}
    numbers = {name: head.num_classes for name, head in heads.items()
               if isinstance(head.num_classes, int) and not isinstance(head, STDCHead)}  # which learns boundaries
    if is_classifier(cfg) and isinstance(number := getattr(model.head, 'num_classes', None), int):
        numbers['head'] = number
    loaders: dict[int, list[str]] = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for count in set(map(_number_of_classes, leaf_datasets(cfg[loader].dataset) if cfg.get(loader) else ())):
            loaders.setdefault(count, []).append(loader)
    wrong = [fail(f'{name} has num_classes={number}, the data of {", ".join(loaders[count])} {count} classes.',
                  f'Set model.{name}.num_classes={count}.')
             for name, number in numbers.items() for count in set(loaders) - {0, number}]
    pad = getattr(model.data_preprocessor, 'seg_pad_val', None)
    wrong += [fail(f'Padding is labeled {pad} (data_preprocessor.seg_pad_val), and {name} ignores {head.ignore_index}: '
                   'it would learn the padding.', f'Set model.data_preprocessor.seg_pad_val={head.ignore_index}.')
              for name, head in heads.items() if pad not in (None, head.ignore_index)]
    listed = ', '.join(f'{name} {number}' for name, number in numbers.items())
    told = 'as the data sets have' if set(loaders) - {0} else 'and no data set is configured with classes'
    yield from wrong or [ok(f'{listed}, {told}{"; padding is ignored" if heads else ""}' if listed else
                            'no head that tells num_classes: not compared')]


def check_batch(cfg: Config, gpus: int) -> Iterator[Finding]:
    """Compare the number of images in an optimizer step with the one that the rates are meant for."""
    per_gpu = cfg.train_dataloader.get('batch_size', 1)
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    for key, number in (('train_dataloader.batch_size', per_gpu), ('optim_wrapper.accumulative_counts', accumulated),
                        *((f'train_cfg.{key}', cfg.train_cfg.get(key, 1)) for key in ('max_iters', 'max_epochs'))):
        if number is not None and not (isinstance(number, int) and number > 0):
            raise Problem(f'{key}={number!r}: nothing can be trained so.', 'Set it to a whole number of at least 1.')
    per_gpu = per_gpu or 1  # a batch_sampler says how many
    batch = per_gpu * gpus * accumulated
    hook = hook_of(cfg, 'EffectiveBatchHook')
    found = f'{batch} images an optimizer step: {per_gpu} per GPU x {gpus} GPUs x {accumulated} accumulated'
    if hook is None:
        yield ok(f'{found}; no EffectiveBatchHook says for how many the rates are meant (usual: 16)')
    elif batch == hook['images']:
        yield ok(f'{found}, as the rates are meant for')
    else:
        yield warn(f'{found}; the rates are meant for {hook["images"]}.',
                   f'{batch_fix(hook["images"], gpus, accumulated)}; or EffectiveBatchHook(images={batch}) if it is '
                   'meant. --gpus says how many there will be.')


def check_rates(cfg: Config, model: nn.Module) -> Generator[Finding, None, Optimizer]:
    """Build the optimizer, return it, and list its learning rates."""
    optimizer = build_optim_wrapper(model, optim_wrapper_without_amp(cfg)).optimizer
    rates: dict[str, float] = {group.get('part', 'optimizer'): group['lr'] for group in optimizer.param_groups}
    yield ok(', '.join(f'{part} {rate:g}' for part, rate in rates.items()))
    return optimizer


def check_schedule(cfg: Config, optimizer: Optimizer) -> Iterator[Finding]:
    """Build the schedules; compare their units with the loop's, their rates and floors with what was asked for.

    Their ends are compared with the training's.
    """
    cfgs = cfg.get('param_scheduler') or []
    cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
    rates = {group.get('part', 'optimizer'): group['lr'] for group in optimizer.param_groups}
    defaults = dict(optimizer=optimizer, epoch_length=1)  # which nothing here depends on
    schedulers = [PARAM_SCHEDULERS.build(dict(c), default_args=defaults) for c in cfgs]
    groups = [{'part': 'optimizer', 'name': str(i), **group} for i, group in enumerate(optimizer.param_groups)]
    loop, sampler = _class_of(LOOPS, _loop_of(cfg)), cfg.train_dataloader.get('sampler') or {}
    refuse_standstill(loop, _class_of(DATA_SAMPLERS, sampler), schedulers)
    refuse_floor_above_rate(groups, schedulers)
    if 'part' in optimizer.param_groups[0]:  # else one rate for all is meant
        refuse_overwritten_rates(groups, schedulers, rates)
    problems = []
    for by_epoch, key in ((False, 'max_iters'), (True, 'max_epochs')):
        length = cfg.train_cfg.get(key)
        ending = [c for c in cfgs if c.get('by_epoch', True) is by_epoch and c.get('end')]
        end = max((c['end'] for c in ending), default=length)
        if not length or end == length:
            continue
        floor, last = max((c.get('eta_min') or c.get('eta_min_ratio') or 0, type_name(c))
                          for c in ending if c['end'] == end)
        idle = end < length and floor == 0 and last in ENDS_AT_FLOOR
        effect = ('the rate never gets there' if end > length else 'nothing is trained in the rest, at a rate of 0'
                  if idle else 'the rest runs at the last rate')
        problems.append(Finding(Verdict.FAIL if idle else Verdict.WARN,
                                f'param_scheduler ends at {end}, training at {key}={length}: {effect}.',
                                f'Set end={length} in param_scheduler.'))
    names = ', '.join(map(type_name, cfgs))
    yield from problems or [ok(f'{names}: ends with the training, its floor below the rates' if names else 'none')]


def _loop_of(cfg: Config) -> dict:
    by_epoch = cfg.train_cfg.get('by_epoch', 'max_epochs' in cfg.train_cfg)
    return {'type': 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop', **cfg.train_cfg}


def _class_of(registry: Registry, cfg: dict) -> type:
    return registered(registry, cfg.get('type')) or object


def check_hooks(cfg: Config) -> Iterator[Finding]:
    """Find every hook in the registry, and build those of this package, which the config has to import."""
    failures, names = [], [*map(type_name, hooks_of(cfg))]
    for name in ('BNConversionHook', 'FeatureDistortionHook'):
        if names.count(name) > 1:
            failures.append(fail(f'There are {names.count(name)} {name}s.', 'Keep one, and list all modules in it.'))
    for hook in hooks_of(cfg):
        name = hook.get('type')
        kind = registered(HOOKS, name)
        if kind is None:
            failures.append(fail(f'Hook {name} is not registered.', 'Check its spelling, and custom_imports.'))
        elif kind.__module__.startswith('mmseg_daft.'):
            try:
                HOOKS.build({key: value for key, value in hook.items() if key != 'priority'})
            except Exception as error:
                failures.append(fail(f'Hook {type_name(hook)} refuses its arguments. {describe(error)}'))
    own = {name for registry in (ALL_HOOKS, OPTIM_WRAPPER_CONSTRUCTORS, DATASETS, MODELS, TRANSFORMS)
           for name, kind in registry.module_dict.items() if kind.__module__.startswith('mmseg_daft.')}
    used = own.intersection(types_in(cfg.to_dict()))
    by_class = any(getattr(kind, '__module__', kind).startswith('mmseg_daft.') for kind in kinds_in(cfg.to_dict()))
    if used and not by_class and 'mmseg_daft' not in _custom_imports(cfg):
        yield warn(f"The config does not import mmseg_daft: mmseg's own train.py finds no {min(used)}.",
                   "Add custom_imports = dict(imports=['mmseg_daft']).")
    yield from failures or [ok(', '.join(name for name in names if name in own) or 'none of this package')]


def check_conversion(cfg: Config, model: nn.Module, images: int, filled: Collection[str]) -> Iterator[Finding]:
    """Count the layers that BNConversionHook would convert, and its mini-batches of so many images (0 if unknown).

    ``filled`` are the names of the tensors that the model's start fills.
    """
    for name in ('BNTestModeHook', 'FeatureDistortionHook'):
        modules = (hook_of(cfg, name) or {}).get('modules', ())
        check_modules(model, (modules,) if isinstance(modules, str) else modules)
    hook = hook_of(cfg, 'BNConversionHook')
    if hook is None:
        return
    wanted, batch_size = hook.get('num_batches'), cfg.train_dataloader.get('batch_size') or 1
    there = ceil(images / batch_size)
    if wanted and 0 < there < wanted:
        yield fail(f'BNConversionHook(num_batches={wanted}), and the {images} training images are {there} mini-batches '
                   f'of {batch_size}.', 'Leave num_batches out, to take all of them.')
    modules = hook.get('modules', 'backbone')
    layers = find_batch_norms(model, modules)
    reasons = {name: reason for name, layer in layers.items() if (reason := why_not_convertible(layer))}
    within = modules if isinstance(modules, str) else ', '.join(modules)
    found = f'{len(layers) - len(reasons)} of {len(layers)} batch-norm layers in {within} can be converted'
    if reasons:
        name, reason = next(iter(reasons.items()))
        yield Finding(Verdict.FAIL if len(reasons) == len(layers) else Verdict.WARN,
                      f'{found}. {name}, for instance, cannot: {reason}.',
                      'Name modules that hold others, or fine-tune without the conversion.')
    else:
        yield ok(found)
    trained = [name for name in layers if f'{name}.running_mean' in filled]
    untrained = [name for name in layers if name not in trained]
    if trained and untrained and not hook.get('allow_untrained'):
        yield fail(f'{len(untrained)} of {len(layers)} batch-norm layers are pre-trained by no file, for instance '
                   f'{untrained[0]}.', part_to_convert(trained, untrained))


def check_step(
    cfg: Config, model: nn.Module, dataset: Any, full: bool,
) -> Generator[Finding, None, tuple[float, tuple[int, int]]]:
    """Run the training forward of two images (noise, if ``dataset`` is ``False``); say whether the loss is finite.

    Large crops are thinned out, unless ``full``. The statistics of the model's batch norm change.

    Returns:
        How many bytes backward needs per image of the full crop, and the crop's height and width.
    """
    samples = ([dataset[i] for i in (0, len(dataset) // 2)] if dataset else
               [_noise(cfg, model, seed) for seed in range(IMAGES)])
    model.train()
    data = model.data_preprocessor(pseudo_collate(samples), True)
    crop = tuple(data['inputs'].shape[-2:])
    stride = 1 if full else ceil(sqrt(crop[0] * crop[1] / LARGEST))
    run = data if stride == 1 else _thinned(data, stride)
    try:
        losses, saved = saved_bytes(model, **run, mode='loss')
    except Exception:
        if stride == 1:
            raise
        run = data  # some models take one size only
        losses, saved = saved_bytes(model, **run, mode='loss')
    h, w = run['inputs'].shape[-2:]
    loss, parts = model.parse_losses(losses)
    infinite = [name for name, value in parts.items() if not isfinite(value)]
    on = f'{IMAGES} {"training images" if dataset else "images of noise, as the data cannot be used,"} at {w}x{h}'
    if infinite:
        yield fail(f'{", ".join(infinite)} is not finite on {on}.',
                   'Check the labels, the normalization and the losses.')
    else:
        yield ok(f'loss {float(loss):.3g} on {on}, CPU, without pre-trained weights')
    return saved * crop[0] * crop[1] / (h * w) / IMAGES, crop


def check_memory(
    cfg: Config, model: nn.Module, optimizer: Optimizer, step: tuple[float, tuple[int, int]],
) -> Iterator[Finding]:
    """Estimate the memory that training takes on one GPU from :func:`check_step`, and compare it with a GPU here."""
    saved, (h, w) = step
    amp = type_name(cfg.optim_wrapper) == 'AmpOptimWrapper'
    images = cfg.train_dataloader.get('batch_size') or 1
    fixed = (_bytes(model.parameters()) + _bytes(model.buffers()) + optimizer_state_bytes(optimizer)
             + _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)) / GIB
    activations = images * saved * (0.5 if amp else 1) / GIB
    total = fixed + activations
    found = (f'about {total:.3g} GB per GPU: {activations:.3g} saved for backward ({images} images of '
             f'{w}x{h}{", halved as mixed precision" if amp else ""}), {fixed:.3g} for weights, '
             'gradients and optimizer; an estimate, without the workspaces of cuDNN.')
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0).total_memory / GIB
        verdict = Verdict.OK if total <= card else Verdict.FAIL
        found += f' The GPU here has {card:.1f} GB.'
    else:
        card = next((card for card in CARDS if total + 1 <= card), None)
        verdict = Verdict.OK if card else Verdict.WARN
        found += f' Cards of {card} GB and more hold it.' if card else f' No card of {CARDS[-1]} GB holds it.'
    yield Finding(verdict, found, '' if verdict is Verdict.OK else
                  f'Take fewer than {images} images per GPU (train_dataloader.batch_size) on more GPUs or with '
                  'optim_wrapper.accumulative_counts, or optim_wrapper.type=AmpOptimWrapper.')


def saved_bytes(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, int]:
    """Return what a model returns, and how many bytes it keeps for backward beside its parameters and buffers."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(*args, **kwargs)
    return result, sum(storages.values())


def optimizer_state_bytes(optimizer: Optimizer) -> float:
    """Return how much an optimizer keeps beside the parameters, measured by a step of its kind on another parameter."""
    probe = nn.Parameter(torch.zeros(64, 64))
    probe.grad = torch.zeros_like(probe)
    known = inspect.signature(type(optimizer).__init__).parameters
    twin = type(optimizer)([probe], **{key: value for key, value in optimizer.defaults.items() if key in known})
    twin.step()
    kept = _bytes(t for t in twin.state[probe].values() if isinstance(t, Tensor) and t.numel() > 1)
    return kept / _bytes([probe]) * _bytes(p for group in optimizer.param_groups for p in group['params'])


def _number_of_classes(leaf: dict) -> int:
    """Return how many classes a data set's config, the file that it names, or its type has; 0 where none says."""
    metainfo = getattr(registered(DATASETS, leaf['type']), 'METAINFO', {})
    classes = leaf.get('classes') or (leaf.get('metainfo') or {}).get('classes') or metainfo.get('classes') or ()
    if isinstance(classes, str) and Path(classes).is_file():
        classes = list_from_file(classes)
    refuse_text(classes)
    return len(classes)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _thinned(data: dict, stride: int) -> dict:
    """Return a preprocessed batch with every ``stride``-th row and column of its images and label maps."""
    samples = []
    for sample in data['data_samples']:
        if 'gt_sem_seg' not in sample:  # of a classifier
            samples.append(sample)
            continue
        label = sample.gt_sem_seg.data[..., ::stride, ::stride].contiguous()
        shape = dict(img_shape=tuple(label.shape[-2:]), pad_shape=tuple(label.shape[-2:]))
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=label), metainfo={**sample.metainfo, **shape}))
    return dict(inputs=data['inputs'][..., ::stride, ::stride].contiguous(), data_samples=samples)


def _noise(cfg: Config, model: nn.Module, seed: int) -> dict:
    """Return a sample of the crop's size in place of a real one."""
    classifier, generator = is_classifier(cfg), torch.Generator().manual_seed(seed)
    first = leaf_datasets(cfg.train_dataloader.dataset)[0]
    pipeline = first.get('pipeline') if classifier else cfg.get('train_pipeline')
    keys = ('crop_size', 'scale') if classifier else ('crop_size',)  # scale is the size that MMPretrain's resize to
    crops = [step[key] for step in pipeline or () for key in keys if step.get(key)]
    size = getattr(model.data_preprocessor, 'size', None) or (crops[-1] if crops else 224 if classifier else 512)
    h, w = (size, size) if isinstance(size, int) else size
    channels = len(getattr(model.data_preprocessor, 'mean', range(3)))
    image = torch.randint(0, 256, (channels, h, w), generator=generator, dtype=torch.uint8)
    if classifier:
        from mmpretrain.structures import DataSample  # which others do not need

        return dict(inputs=image, data_samples=DataSample().set_gt_label(seed % getattr(model.head, 'num_classes', 2)))
    head = model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head
    label = torch.randint(0, getattr(head, 'num_classes', 2), (1, h, w), generator=generator)
    sample = SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(h, w), ori_shape=(h, w)))
    return dict(inputs=image, data_samples=sample)
