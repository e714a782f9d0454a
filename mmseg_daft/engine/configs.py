"""Read a config as a training does, and ask it for its hooks, its types and its data sets."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope


class ConfigError(ValueError):
    """A config cannot be read, or an option does not fit it; the message is for users, with the fix."""


def read_config(path: str | Path, options: Sequence[str] = (), import_modules: bool = True) -> Config:
    """Read a config with a command's ``KEY=VALUE`` options, as mmseg's own tools read ``--cfg-options``.

    With ``import_modules``, what its ``custom_imports`` names is imported and its default scope is set.

    Raises:
        ConfigError: There is no such file, it or a base cannot be read, or an option does not fit.
    """
    if not Path(path).is_file():
        raise ConfigError(f'There is no config {path}. `mmseg-daft configs list` shows the shipped ones.')
    try:
        cfg = Config.fromfile(path, import_custom_modules=import_modules)
    except Exception as error:
        line = f'Line {error.lineno}: ' if isinstance(error, SyntaxError) else ''
        fix = ". For bases mmseg::…, pip install 'setuptools<82'." if 'pkg_resources' in str(error) else ''
        raise ConfigError(f'{path} cannot be read. {line}{type(error).__name__}: {error}{fix}') from error
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='*', action=DictAction, default={})
    try:
        cfg.merge_from_dict(parser.parse_args(['--options', *options]).options)
    except Exception as error:
        raise ConfigError(f'--cfg-options {" ".join(options)}: not KEY=VALUE of {path} ({error!r}). Write settings of '
                          'the config, such as train_dataloader.batch_size=8.') from error
    if import_modules:
        init_default_scope(cfg.get('default_scope') or 'mmseg')
    return cfg


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
