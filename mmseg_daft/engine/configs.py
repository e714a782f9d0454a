"""Read a config as a training does, and ask it for its hooks, its types and its data sets."""

import argparse
import copy
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import Registry, init_default_scope

from mmseg_daft.extras import installation, missing_module

_READ_ELSEWHERE = ('custom_imports', 'tta_model', 'tta_pipeline', 'model_wrapper_cfg', 'find_unused_parameters',
                   'sync_bn', 'compile', 'activation_checkpointing', 'efficient_conv_bn_eval', 'runner_type')
"""What MMEngine and mmseg read from a config, beside a runner's arguments."""


class ConfigError(ValueError):
    """A config cannot be read, or an option does not fit it; the message is for users, with the fix."""


def read_config(
    path: str | Path, options: Sequence[str] = (), import_modules: bool = True, needs: Sequence[str] = (),
) -> Config:
    """Read a config with a command's ``KEY=VALUE`` options, as mmseg's own tools read ``--cfg-options``.

    With ``import_modules``, what its ``custom_imports`` names is imported and its default scope is set. ``needs`` are
    the keys without which the caller has nothing to do.

    Raises:
        ConfigError: There is no such file, it or a base cannot be read, an option does not fit, or a key is missing.
    """
    if not Path(path).is_file():
        raise ConfigError(f'There is no config {path}. `mmseg-daft configs list` shows the shipped ones.')
    try:
        cfg = Config.fromfile(path, import_custom_modules=import_modules)
    except (Exception, SystemExit) as error:  # a config is a program
        line = f'Line {error.lineno}: ' if isinstance(error, SyntaxError) else ''
        fix = ". For bases mmseg::…, pip install 'setuptools<82'." if 'pkg_resources' in str(error) else ''
        fix = '. Save it, and the bases that it names, as UTF-8.' if isinstance(error, UnicodeDecodeError) else fix
        # MMEngine's message does not say which module is missing.
        if 'import custom modules' in str(error) and (module := missing_module(error)):
            raise ConfigError(f'{path}: its custom_imports need {module}, which is missing{installation(module)}.'
                              ) from error
        raise ConfigError(f'{path} cannot be read. {line}{type(error).__name__}: {error}{fix}') from error
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='*', action=DictAction, default={})
    try:
        given = parser.parse_args(['--options', *options]).options
        for option in given:
            _refuse_unread(cfg, option)
        cfg.merge_from_dict(given)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f'--cfg-options {" ".join(options)}: not KEY=VALUE of {path} ({error!r}). Write settings of '
                          'the config, such as train_dataloader.batch_size=8.') from error
    missing = [key for key in needs if not cfg.get(key)]
    if missing:
        raise ConfigError(f'{path} lacks {", ".join(missing)}, so there is nothing to train or to measure. Give a '
                          'whole config, not one of its bases.')
    if import_modules:
        init_default_scope(cfg.get('default_scope') or 'mmseg')
    return cfg


def _refuse_unread(cfg: Config, option: str) -> None:
    """Refuse an option that MMEngine would add where nothing reads it: it makes every part of a path that is missing.

    Raises:
        ConfigError: The config has no such key, and no runner reads it; or there is no such list.
    """
    first, *rest = option.split('.')
    if first in cfg and not (rest and rest[0].isdecimal() and not cfg[first]):
        return
    read = _read_by_mmengine()
    if first not in read or (rest and rest[0].isdecimal()):
        near = difflib.get_close_matches(first, sorted({*cfg, *read}), 1)
        hint = f' Is {near[0]} meant?' if near and near[0] != first else ''
        raise ConfigError(f'--cfg-options {option}: the config has no {first}{" with items" if first in read else ""}, '
                          f'and nothing would read it.{hint} If code of yours does, put it into the config.')


def _read_by_mmengine() -> set[str]:
    from mmengine.runner import Runner  # here: it takes seconds

    return {*inspect.signature(Runner.__init__).parameters, *_READ_ELSEWHERE}


def misspelt_keys(cfg: Config) -> dict[str, str]:
    """Return keys that nothing reads and that look like one that MMEngine reads and the config lacks, and that one."""
    read = _read_by_mmengine()
    missing = sorted(read - cfg.keys() - {*_READ_ELSEWHERE})
    near = {key: difflib.get_close_matches(key, missing, 1, 0.85) for key in cfg.keys() - read}
    return {key: matches[0] for key, matches in near.items() if matches}


def type_name(cfg: dict) -> str:
    """Return the name in a config's ``type``, which may be a class or have a scope before it (``mmseg.ResNet``)."""
    kind = cfg.get('type') or ''
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))).rsplit('.', 1)[-1]


def hooks_of(cfg: Config) -> list[dict]:
    """Return the configs of all hooks, default and custom."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return [hook for hook in hooks if isinstance(hook, dict)]


def hook_of(cfg: Config, name: str) -> dict | None:
    """Return the config of the hook of this type, or ``None``."""
    return next((hook for hook in hooks_of(cfg) if type_name(hook) == name), None)


def length_of(cfg: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what a training counts, ``'epoch'`` or ``'iter'``, and how many of them it has."""
    train_cfg = cfg.get('train_cfg') or {}
    unit = 'epoch' if train_cfg.get('max_epochs') else 'iter'
    return unit, train_cfg.get(f'max_{unit}s')


def checkpoint_hook(cfg: Config) -> dict | None:
    """Return the config of the hook that saves checkpoints, ``None`` where there is none.

    One of a type of its own counts, as ``default_hooks.checkpoint``; where none is named, MMEngine adds one: ``{}``.
    """
    return hook_of(cfg, 'CheckpointHook') or (cfg.get('default_hooks') or {}).get('checkpoint', {})


def unsaved_end(cfg: Config, by_unit: bool = False) -> str:
    """Return why the model at the end of a training is not saved, with the fix; nothing where it is.

    To MMEngine a loop of iterations is one epoch, at whose end a hook that counts epochs saves. With ``by_unit`` that
    will not do: the checkpoint's name has to count what the training counts.
    """
    unit, length = length_of(cfg)
    in_epochs = unit == 'epoch'
    hook = checkpoint_hook(cfg)
    fix = f'.by_epoch={in_epochs}' if hook else f"=dict(type='CheckpointHook', by_epoch={in_epochs})"
    if hook is None:
        return f'without a CheckpointHook no final model is left. Set default_hooks.checkpoint{fix}.'
    by_epoch = hook.get('by_epoch', True)
    if by_epoch != in_epochs and (by_unit or in_epochs):
        return (f'it trains for {"epochs" if in_epochs else "iterations"}, and its CheckpointHook counts others. '
                f'Set default_hooks.checkpoint{fix}.')
    times, interval = (1 if by_epoch and not in_epochs else length), hook.get('interval', -1)
    if not hook.get('save_last', True) and (interval < 1 or times % interval):
        return 'its CheckpointHook does not save the final model. Set default_hooks.checkpoint.save_last=True.'
    return ''


def types_in(cfg: Any) -> Iterator[str]:
    """Yield the names of all types in a nested config, and of its constructors."""
    return (type_name({'type': kind}) for kind in kinds_in(cfg))


def kinds_in(cfg: Any) -> Iterator[str | type]:
    """Yield every ``type`` and ``constructor`` in a nested config as it stands there."""
    if isinstance(cfg, dict):
        yield from (cfg[key] for key in ('type', 'constructor') if isinstance(cfg.get(key), (str, type)))
        for value in cfg.values():
            yield from kinds_in(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            yield from kinds_in(value)


def registered(registry: Registry, kind: str | type) -> type | None:
    """Return the class that a ``type`` stands for in the scope of the config that was read, ``None`` for none.

    ``registry`` may be MMEngine's or any package's; a name in MMPretrain's is found from mmseg's as well.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(kind)


def model_of(cfg: Config) -> ConfigDict:
    """Return a copy of the model's config with the ``data_preprocessor`` that MMPretrain's bases have beside it.

    A runner puts it there, too: without it, a model would see images that are not normalized.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


def optim_wrapper_without_amp(cfg: Config) -> ConfigDict:
    """Return a copy of the optimizer's config that can be built where there is no GPU."""
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    if type_name(wrapper) == 'AmpOptimWrapper':
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
    return wrapper


def is_classifier(cfg: Config) -> bool:
    """Return whether the model tells one class for an image, as MMPretrain's do, and not one for each pixel."""
    return 'head' in cfg.model and 'decode_head' not in cfg.model


def further_domains(test_cfg: Mapping[str, Any] | None) -> dict[str, dict]:
    """Return the further test sets of a ``DomainsTestLoop``, by name: all, or those that ``only`` names.

    Raises:
        ConfigError: ``only`` names one that is not there.
    """
    domains, only = ((test_cfg or {}).get(key) for key in ('domains', 'only'))
    names, domains = only if only is not None else domains or (), domains or {}
    if unknown := [name for name in names if name not in domains]:
        raise ConfigError(f'test_cfg.only names {unknown}, and test_cfg.domains has {list(domains)}.')
    return {name: domains[name] for name in names}


def ignored_labels(cfg: Config) -> set[int]:
    """Return the labels that stand for no class: what the decoders ignore, 255 where they do not say."""
    heads = cfg.model.get('decode_head') or {}
    return {head.get('ignore_index', 255) for head in ([heads] if isinstance(heads, dict) else heads)}
