"""Whether config, model, classes, batch, rates, schedule, hooks and conversion go together."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Generator, Iterator, Sequence
from math import ceil
from pathlib import Path

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as ALL_HOOKS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from torch import nn
from torch.optim import Optimizer

from mmseg_daft.core.batch_norm import find_batch_norms, why_not_convertible
from mmseg_daft.doctor.finding import Finding, Problem, Verdict, describe, fail, ok, warn
from mmseg_daft.engine.configs import hook_of, hooks_of, read_config, type_name, types_in
from mmseg_daft.engine.hooks.effective_batch_hook import batch_fix
from mmseg_daft.engine.optim_wrapper_constructor import refuse_floor_above_rate
from mmseg_daft.engine.training_data import leaf_datasets

ENDS_AT_FLOOR = ('PolyLR', 'CosineAnnealingLR')  # at eta_min, 0 by default


def build_config(path: Path, options: Sequence[str]) -> Config:
    """Read a config with the command's options.

    Raises:
        Problem: There is no such file, it or a base cannot be read, or an option does not fit.
    """
    if not path.is_file():
        raise Problem(f'There is no config {path}.', 'Give the path of a config, such as configs/daft/….py')
    try:
        cfg = read_config(path)
    except Exception as error:
        line = f'Line {error.lineno}: ' if isinstance(error, SyntaxError) else ''
        fix = "pip install 'setuptools<82', for bases mmseg::…" if 'pkg_resources' in str(error) else ''
        raise Problem(f'{path} cannot be read. {line}{describe(error)}', fix) from error
    try:
        cfg = read_config(path, options) if options else cfg
    except Exception as error:
        raise Problem(f'--cfg-options {" ".join(options)}: {describe(error)}',
                      'Write KEY=VALUE, such as train_dataloader.batch_size=8') from error
    missing = [key for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper') if not cfg.get(key)]
    if missing:
        raise Problem(f'{path} lacks {", ".join(missing)}, so nothing can be trained from it.',
                      'Give a whole config, not one of its bases.')
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build the model on the CPU, without its pre-trained weights and with plain batch norm for SyncBN.

    Raises:
        Problem: It cannot be built.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    try:
        return revert_sync_batchnorm(MODELS.build(model))
    except Exception as error:
        missing = [name for name in custom_imports(cfg) if not importlib.util.find_spec(name.split('.')[0])]
        fix = f'Install {", ".join(missing)}, which the config imports where it is installed.' if missing else ''
        raise Problem(describe(error), fix) from error


def custom_imports(cfg: Config) -> list[str]:
    """Return the modules that a config has imported."""
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    return [names] if isinstance(names, str) else list(names)


def check_classes(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Compare the decoders' classes with the data sets', and the label of padding with the one that losses ignore."""
    heads = {name: module for name, module in model.named_modules() if isinstance(module, BaseDecodeHead)}
    numbers = {name: head.num_classes for name, head in heads.items() if isinstance(head.num_classes, int)}
    loaders: dict[int, dict[str, None]] = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for leaf in leaf_datasets(cfg[loader].dataset) if cfg.get(loader) else ():
            loaders.setdefault(_number_of_classes(leaf), {})[loader] = None
    wrong = [fail(f'{name} has num_classes={number}, the data of {", ".join(loaders[count])} {count} classes.',
                  f'Set model.{name}.num_classes={count}.')
             for name, number in numbers.items() for count in set(loaders) - {0, number}]
    pad = getattr(model.data_preprocessor, 'seg_pad_val', None)
    wrong += [fail(f'Padding is labeled {pad} (data_preprocessor.seg_pad_val), and {name} ignores {head.ignore_index}: '
                   'it would learn the padding.', f'Set model.data_preprocessor.seg_pad_val={head.ignore_index}.')
              for name, head in heads.items() if pad not in (None, head.ignore_index)]
    listed = ', '.join(f'{name} {number}' for name, number in numbers.items())
    yield from wrong or [ok(f'{listed}, as the data sets have; padding is ignored' if listed else
                            "no decoder with mmseg's num_classes: not compared")]


def check_batch(cfg: Config, gpus: int) -> Iterator[Finding]:
    """Compare the number of images in an optimizer step with the one that the rates are meant for."""
    per_gpu = cfg.train_dataloader.get('batch_size') or 1
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
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
    """Build the optimizer, return it, and list its learning rates.

    Raises:
        ValueError: DAFTOptimWrapperConstructor refuses its settings.
    """
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    if type_name(wrapper) == 'AmpOptimWrapper':  # it may need a GPU that is not here
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    rates: dict[str, float] = {group.get('part', 'optimizer'): group['lr'] for group in optimizer.param_groups}
    yield ok(', '.join(f'{part} {rate:g}' for part, rate in rates.items()))
    return optimizer


def check_schedule(cfg: Config, optimizer: Optimizer) -> Iterator[Finding]:
    """Compare the floors of the schedules with the rates, and their ends with the training's.

    Raises:
        ValueError: A floor lies above a rate.
    """
    cfgs = cfg.get('param_scheduler') or []
    cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
    # The floor does not depend on the length of an epoch, which the conversion to iterations would ask for.
    schedulers = [PARAM_SCHEDULERS.build({key: value for key, value in c.items() if key != 'convert_to_iter_based'},
                                         default_args=dict(optimizer=optimizer)) for c in cfgs]
    groups = [{'part': 'optimizer', 'name': str(i), **group} for i, group in enumerate(optimizer.param_groups)]
    refuse_floor_above_rate(groups, schedulers)
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


def check_hooks(cfg: Config) -> Iterator[Finding]:
    """Find every hook in the registry, and build those of this package, which the config has to import."""
    failures = []
    for hook in hooks_of(cfg):
        name = hook.get('type')
        kind = HOOKS.get(name) if isinstance(name, str) else name
        if kind is None:
            failures.append(fail(f'Hook {name} is not registered.', 'Check its spelling, and custom_imports.'))
        elif kind.__module__.startswith('mmseg_daft.'):
            try:
                HOOKS.build(dict(hook))
            except Exception as error:
                failures.append(fail(f'Hook {type_name(hook)} refuses its arguments. {describe(error)}'))
    own = {name for registry in (ALL_HOOKS, OPTIM_WRAPPER_CONSTRUCTORS, DATASETS, MODELS, TRANSFORMS)
           for name, kind in registry.module_dict.items() if kind.__module__.startswith('mmseg_daft.')}
    used = own & {*types_in(cfg.to_dict()), cfg.optim_wrapper.get('constructor')}
    if used and 'mmseg_daft' not in custom_imports(cfg):
        yield warn(f"The config does not import mmseg_daft: mmseg's own train.py finds no {min(used)}.",
                   "Add custom_imports = dict(imports=['mmseg_daft']).")
    names = ', '.join(name for name in map(type_name, hooks_of(cfg)) if name in own)
    yield from failures or [ok(names or 'none of this package')]


def check_conversion(cfg: Config, model: nn.Module, images: int) -> Iterator[Finding]:
    """Count the layers that BNConversionHook would convert, and its mini-batches of so many images (0 if unknown).

    Raises:
        ValueError: The hook's ``modules`` hold no batch-norm layer.
    """
    hook = hook_of(cfg, 'BNConversionHook')
    if hook is None:
        return
    wanted, batch_size = hook.get('num_batches'), cfg.train_dataloader.get('batch_size') or 1
    if wanted and 0 < ceil(images / batch_size) < wanted:
        yield fail(f'BNConversionHook(num_batches={wanted}), and the {images} training images are '
                   f'{ceil(images / batch_size)} mini-batches of {batch_size}.',
                   'Leave num_batches out, to take all of them.')
    modules = hook.get('modules', ('backbone',))
    modules = (modules,) if isinstance(modules, str) else tuple(modules)
    layers = find_batch_norms(model, modules)
    reasons = {name: reason for name, layer in layers.items() if (reason := why_not_convertible(layer))}
    found = f'{len(layers) - len(reasons)} of {len(layers)} batch-norm layers in {", ".join(modules)} can be converted'
    if reasons:
        name, reason = next(iter(reasons.items()))
        yield Finding(Verdict.FAIL if len(reasons) == len(layers) else Verdict.WARN,
                      f'{found}. {name}, for instance, cannot: {reason}.',
                      'Name modules that hold others, or fine-tune without the conversion.')
    else:
        yield ok(found)


def _number_of_classes(leaf: dict) -> int:
    """Return how many classes a data set's config or its type has; 0 where neither says."""
    kind = DATASETS.get(leaf['type']) if isinstance(leaf['type'], str) else leaf['type']
    return len((leaf.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get('classes') or ())
