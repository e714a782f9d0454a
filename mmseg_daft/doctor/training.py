"""Whether classes, batch, rates, schedule, hooks and conversion of a config go together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sized

from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS as ALL_HOOKS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from torch import nn

from mmseg_daft.core.batch_norm import find_batch_norms, why_not_convertible
from mmseg_daft.doctor.config import custom_imports, hook_of, hooks_of, type_name, types_in
from mmseg_daft.doctor.data import leaf_cfgs
from mmseg_daft.doctor.finding import Finding, Verdict, describe, fail, ok, warn
from mmseg_daft.engine.hooks.effective_batch_hook import batch_fix
from mmseg_daft.engine.optim_wrapper_constructor import refuse_floor_above_rate

TO_ZERO = ('PolyLR', 'CosineAnnealingLR')
"""Schedules that end at their ``eta_min``, 0 by default."""


def check_classes(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Compare the decoders' classes, the data sets' and the labels that losses and padding ignore."""
    heads = {name: module for name, module in model.named_modules() if isinstance(module, BaseDecodeHead)}
    numbers = {name: head.num_classes for name, head in heads.items() if isinstance(head.num_classes, int)}
    failed = False
    loaders: dict[int, dict[str, None]] = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for leaf in leaf_cfgs(cfg[loader].dataset) if cfg.get(loader) else ():
            loaders.setdefault(len(classes_of(leaf)), {})[loader] = None
    for name, number in numbers.items():
        for count in set(loaders) - {0, number}:
            failed = True
            yield fail('classes', f'{name} has num_classes={number}, the data of {", ".join(loaders[count])} {count} '
                       'classes.', f'Set model.{name}.num_classes={count}.')
    preprocessor = model.data_preprocessor
    pad = getattr(preprocessor, 'seg_pad_val', None)
    for name, head in heads.items():
        if pad is not None and pad != head.ignore_index:
            failed = True
            yield fail('classes', f'Padding is labelled {pad} (data_preprocessor.seg_pad_val), and {name} ignores '
                       f'{head.ignore_index}: it would learn the padding.',
                       f'Set model.data_preprocessor.seg_pad_val={head.ignore_index}.')
    if not failed:
        of = ', '.join(f'{name} {number}' for name, number in numbers.items())
        yield ok('classes', f'{of}, as the data sets have; padding is ignored' if of else
                 "no decoder with mmseg's num_classes: not compared")


def classes_of(leaf: dict) -> tuple:
    """Return a data set's classes from its config or its type; empty where neither says."""
    classes = (leaf.get('metainfo') or {}).get('classes')
    return tuple(classes or getattr(DATASETS.get(leaf['type']) if isinstance(leaf['type'], str) else leaf['type'],
                                    'METAINFO', {}).get('classes') or ())


def check_batch(cfg: Config, gpus: int) -> Iterator[Finding]:
    """Compare how many images an optimizer step is over with what the rates are meant for."""
    per_gpu = cfg.train_dataloader.get('batch_size') or 1
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    batch = per_gpu * gpus * accumulated
    hook = hook_of(cfg, 'EffectiveBatchHook')
    meant = hook['images'] if hook else 16
    found = f'{batch} images an optimizer step: {per_gpu} per GPU x {gpus} GPUs x {accumulated} accumulated'
    if hook and batch != meant:
        yield warn('batch', f'{found}; the rates are meant for {meant}.',
                   f'{batch_fix(meant, gpus, accumulated)}; or EffectiveBatchHook(images={batch}) if it is meant. '
                   '--gpus says how many there will be.')
    else:
        yield ok('batch', found + (', as the rates are meant for' if hook
                      else '; no EffectiveBatchHook says for how many the rates are meant (usual: 16)'))


def build_optimizer(cfg: Config, model: nn.Module) -> OptimWrapper:
    """Build the optimizer wrapper, in full precision: mixed precision may want a GPU that is not here.

    Raises:
        ValueError: As DAFTOptimWrapperConstructor, with the fix.
    """
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    if type_name(wrapper) == 'AmpOptimWrapper':
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
    return build_optim_wrapper(model, wrapper)


def check_rates(cfg: Config, wrapper: OptimWrapper) -> Iterator[Finding]:
    """Compare the groups' rates with the schedules' floors, and the schedules' ends with the run's."""
    cfgs = cfg.get('param_scheduler') or []
    cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
    # The floor does not depend on the length of an epoch, which the conversion to iterations would ask for.
    schedulers = [PARAM_SCHEDULERS.build({key: value for key, value in cfg.items() if key != 'convert_to_iter_based'},
                                         default_args=dict(optimizer=wrapper)) for cfg in cfgs]
    groups = [dict(dict(part='optimizer', name=str(i)), **group)
              for i, group in enumerate(wrapper.optimizer.param_groups)]
    refuse_floor_above_rate(groups, schedulers)
    rates: dict[str, float] = {group['part']: group.get('initial_lr', group['lr']) for group in groups}
    names = ', '.join(map(type_name, cfgs)) or 'no schedule'
    yield ok('rates', ', '.join(f'{part} {rate:g}' for part, rate in rates.items())
                  + f'; {names}, floor below them')
    for by_epoch, key in ((False, 'max_iters'), (True, 'max_epochs')):
        length = cfg.train_cfg.get(key)
        ends = [c['end'] for c in cfgs if c.get('by_epoch', True) is by_epoch and c.get('end')]
        if length and ends and max(ends) != length:
            last = max((c for c in cfgs if c.get('end') == max(ends)), key=_floor)
            stands_still = max(ends) < length and type_name(last) in TO_ZERO and _floor(last) == 0
            effect = ('nothing is trained in the rest, whose rate is 0' if stands_still else
                      'the rest runs at the last rate' if max(ends) < length else 'the rate never gets there')
            yield (fail if stands_still else warn)(
                'schedule', f'param_scheduler ends at {max(ends)}, training at {key}={length}: {effect}.',
                f'Set end={length} in param_scheduler.')


def _floor(scheduler: dict) -> float:
    return scheduler.get('eta_min') or scheduler.get('eta_min_ratio') or 0


def check_hooks(cfg: Config) -> Iterator[Finding]:
    """Find every hook in the registry, and build those of this package, which the config has to import."""
    failed = False
    for hook in hooks_of(cfg):
        kind = HOOKS.get(hook['type']) if isinstance(hook.get('type'), str) else hook.get('type')
        error = '' if kind else 'is not registered: check its spelling, and custom_imports.'
        if kind and kind.__module__.startswith('mmseg_daft.'):
            try:
                HOOKS.build(dict(hook))
            except Exception as refused:
                error = f'refuses its arguments. {describe(refused)}'
        if error:
            failed = True
            yield fail('hooks', f'Hook {hook.get("type")} {error}')
    own = {name for registry in (ALL_HOOKS, OPTIM_WRAPPER_CONSTRUCTORS, DATASETS, MODELS, TRANSFORMS)
           for name, kind in registry.module_dict.items() if kind.__module__.startswith('mmseg_daft.')}
    used = own & {*types_in(cfg.to_dict()), cfg.optim_wrapper.get('constructor')}
    if used and 'mmseg_daft' not in custom_imports(cfg):
        yield warn('hooks', f"The config does not import mmseg_daft: mmseg's own train.py finds no {min(used)}.",
                   "Add custom_imports = dict(imports=['mmseg_daft']).")
    if not failed:
        yield ok('hooks', ', '.join(type_name(hook) for hook in hooks_of(cfg) if type_name(hook) in own)
                 or 'none of this package')


def check_conversion(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Look for the layers that BNConversionHook would convert, where the config has it."""
    cfg_of_hook = hook_of(cfg, 'BNConversionHook')
    if cfg_of_hook is None:
        return
    modules = cfg_of_hook.get('modules', ('backbone',))
    modules = (modules,) if isinstance(modules, str) else tuple(modules)
    layers = find_batch_norms(model, modules)
    reasons = {name: reason for name, layer in layers.items() if (reason := why_not_convertible(layer))}
    found = (f'{len(layers) - len(reasons)} of {len(layers)} batch-norm layers in {", ".join(modules)} can be '
             'converted')
    if reasons:
        name, reason = next(iter(reasons.items()))
        verdict = Verdict.FAIL if len(reasons) == len(layers) else Verdict.WARN
        yield Finding('conversion', verdict, f'{found}. Of {name}, for instance: {reason}.',
                      'Name modules that hold others, or fine-tune without the conversion.')
    else:
        yield ok('conversion', found)


def check_pass(cfg: Config, dataset: Sized) -> Iterator[Finding]:
    """Compare how many mini-batches BNConversionHook would take with how many there are."""
    wanted = (hook_of(cfg, 'BNConversionHook') or {}).get('num_batches')
    batch_size = cfg.train_dataloader.get('batch_size') or 1
    there = -(-len(dataset) // batch_size)
    if wanted and wanted > there:
        yield fail('conversion', f'BNConversionHook(num_batches={wanted}), and the {len(dataset)} training images are '
                   f'{there} mini-batches of {batch_size}.', 'Leave num_batches out, for all of them.')


def model_types(cfg: Config) -> set[str]:
    """Return the names of all types in the config's model."""
    return set(types_in(cfg.model))
