"""An MMEngine optimizer-wrapper constructor that gives backbone and head a rate of their own."""

import difflib
import gc
from typing import Any

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.runner import Runner
from torch import nn

from mmseg_daft.core.arguments import NAMES, NOT_NEGATIVE, Rule, check_arguments, number, optional
from mmseg_daft.core.parameter_groups import parameter_groups
from mmseg_daft.core.stage_rates import stage_rates
from mmseg_daft.engine.schedules import (
    refuse_changed_rates,
    refuse_floor_above_rate,
    refuse_overwritten_rates,
    refuse_standstill,
)

PARAMWISE = dict(backbone_lr=NOT_NEGATIVE, head_lr=NOT_NEGATIVE, backbone_modules=NAMES, head_modules=NAMES,
                 norm_decay_mult=optional(NOT_NEGATIVE), bias_decay_mult=optional(NOT_NEGATIVE),
                 layer_decay=optional(number(lambda v: 0 < v <= 1, 'a number above 0, up to 1')),
                 stage_lr_mult=optional(Rule(
                     lambda v: isinstance(v, dict) and len(v) > 0 and all(map(NOT_NEGATIVE.holds, v.values())),
                     'numbers, 0 or larger, by stage, as dict(stem=0, stage1=0.1)')))
"""What ``paramwise_cfg`` may hold."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DAFTOptimWrapperConstructor:
    """Build an optimizer wrapper with two named parameter groups, ``backbone`` and ``head``.

    In a config::

        optim_wrapper = dict(
            constructor='DAFTOptimWrapperConstructor',
            paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.1))

    Both rates are absolute, ηθ and ηw of the paper; ``optimizer.lr`` is not used. The training log and the visualizers
    show ``backbone_lr`` and ``head_lr`` in place of ``lr``. It builds whatever wrapper and optimizer the config names:
    ``OptimWrapper``, ``AmpOptimWrapper``, with gradient accumulation and clipping as usual.

    Args:
        optim_wrapper_cfg: The config's ``optim_wrapper``, less ``constructor`` and ``paramwise_cfg``.
        paramwise_cfg: ``backbone_lr`` and ``head_lr``, and optionally

            - ``backbone_modules`` (default ``('backbone',)``), ``head_modules`` (default
              ``('neck', 'decode_head', 'auxiliary_head', 'head')``): the submodules of either part;
            - ``norm_decay_mult``, ``bias_decay_mult``: as in MMEngine; each adds a group per part;
            - ``layer_decay``: what a stage's rate is of the next one's, ``backbone_lr`` being the last stage's; one
              group a stage, ``stem``, ``stage1``, …;
            - ``stage_lr_mult``: by stage, what its rate is multiplied by; 0 freezes its weights, not its statistics.

    Raises:
        ValueError: A rate is missing, negative or not a number, or a key is unknown. When called: as
            ``parameter_groups`` and ``stage_rates``. Before the first iteration: a schedule replaces, lifts or never
            moves the rates, or a resumed run began with others.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        if 'optimizer' not in self.wrapper_cfg:
            raise ValueError("optim_wrapper needs an optimizer, such as optimizer=dict(type='SGD', momentum=0.9). In a "
                             'config of Python classes, optim_wrapper.update(...) keeps the inherited one.')
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer'))
        options = dict(paramwise_cfg or {})
        for name in ('backbone_lr', 'head_lr'):
            if name not in options:
                raise ValueError(f'paramwise_cfg lacks {name}. DAFTOptimWrapperConstructor takes both rates, for '
                                 'instance paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.1); give both the same '
                                 'number to fine-tune at one rate.')
        try:
            check_arguments('paramwise_cfg of DAFTOptimWrapperConstructor', options, PARAMWISE)
        except ValueError as error:
            inherited = '' if options.keys() <= PARAMWISE.keys() else (
                ' What a base config has set goes by paramwise_cfg=dict(_delete_=True, ...).')
            raise ValueError(f'{error}{inherited}') from None
        self.rates = {part: float(options[f'{part}_lr']) for part in ('backbone', 'head')}
        self.parts = {'backbone': options.get('backbone_modules', 'backbone'),
                      'head': options.get('head_modules', ('neck', 'decode_head', 'auxiliary_head', 'head'))}
        self.per_stage = {key: options[key] for key in ('layer_decay', 'stage_lr_mult') if options.get(key) is not None}
        self.decay_rules = {rule: options.get(rule) for rule in ('norm_decay_mult', 'bias_decay_mult')}

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper for a model, which may be wrapped for distributed training."""
        if is_model_wrapper(model):
            model = model.module
        parts, rates = dict(self.parts), dict(self.rates)
        try:
            if self.per_stage:
                stages, of_stages = stage_rates(model, parts.pop('backbone'), rates.pop('backbone'), **self.per_stage)
                parts, rates = {**stages, **parts}, {**of_stages, **rates}
            groups = parameter_groups(
                model, parts, rates, self.optimizer_cfg.get('weight_decay'), **self.decay_rules)
        except ValueError as error:
            raise ValueError(f'{error} (In a config: backbone_modules and head_modules of paramwise_cfg, and '
                             'optimizer.weight_decay.)') from None
        print_log('Parameter groups: ' + ', '.join(
            f'{g["name"]} (lr {g["lr"]:g}, {sum(p.numel() for p in g["params"]) / 1e6:.2f} M in '
            f'{len(g["params"])} tensors)' for g in groups), logger='current')
        # MMEngine schedules a base rate beside the groups'; it belongs to no parameter here.
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups, lr=rates['head']))
        kind = _wrapper_type(self.wrapper_cfg)
        named = type(kind.__name__, (_NamedRates, kind), {})
        wrapper = OPTIM_WRAPPERS.build(dict(self.wrapper_cfg, type=named, optimizer=optimizer))
        wrapper.rates = rates
        return wrapper


class _NamedRates:
    """What an optimizer wrapper with named groups does besides."""

    rates: dict[str, float]
    """What each part was given."""

    def get_lr(self) -> dict[str, list[float]]:
        """Return the current rates by name; MMEngine logs each, and only the first of a list."""
        rates: dict[str, list[float]] = {}
        for group in self.optimizer.param_groups:
            rates.setdefault(f'{group["part"]}_lr', []).append(group['lr'])
        return rates

    def initialize_count_status(self, *args: Any, **kwargs: Any) -> None:
        """Check the rates against their schedules: the runner calls this last before training."""
        if runner := _runner_of(self):
            schedulers, groups = runner.param_schedulers or [], self.optimizer.param_groups
            loop = runner.train_loop
            refuse_standstill(type(loop), type(loop.dataloader.batch_sampler.sampler), schedulers)
            refuse_floor_above_rate(groups, schedulers)
            scaled = bool((runner.auto_scale_lr or {}).get('enable'))
            if runner.iter == 0:
                refuse_overwritten_rates(groups, schedulers, self.rates, scaled)
            else:
                refuse_changed_rates(groups, self.rates, scaled)
        super().initialize_count_status(*args, **kwargs)


def _wrapper_type(cfg: dict) -> type[OptimWrapper]:
    kind = cfg.get('type', 'OptimWrapper')
    if not isinstance(kind, str):
        return kind
    with OPTIM_WRAPPERS.switch_scope_and_registry(cfg.get('_scope_')) as registry:  # a base mmseg::... sets a scope
        found = registry.get(kind)
    if found is None:
        near = difflib.get_close_matches(kind, list(OPTIM_WRAPPERS.module_dict), n=3)
        raise ValueError(f'optim_wrapper has type={kind!r}, which is not registered. Did you mean one of '
                         f'{near or sorted(OPTIM_WRAPPERS.module_dict)}?')
    return found


def _runner_of(optim_wrapper: OptimWrapper) -> Runner | None:
    """Return the runner that trains with an optimizer wrapper, found among all live objects (some 50 ms, once a run).

    It holds the wrapper, which never meets it; its loop and its schedules are known to it alone.
    """
    # By type(): isinstance() asks every object for __class__, and lazy modules answer with warnings.
    # getattr: a runner that refused its config is half built, and a traceback keeps it.
    return next((o for o in gc.get_objects()
                 if issubclass(type(o), Runner) and getattr(o, 'optim_wrapper', None) is optim_wrapper), None)
