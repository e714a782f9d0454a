"""Read a config as a training does, and ask it for its hooks, its types and its data sets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope


def read_config(path: str | Path, options: Sequence[str] = (), import_modules: bool = True) -> Config:
    """Read a config with a command's ``KEY=VALUE`` options, as mmseg's own tools read ``--cfg-options``.

    Args:
        path: The config.
        options: ``KEY=VALUE`` words.
        import_modules: Import what its ``custom_imports`` names, and set its default scope.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An option has no ``=``.
        TypeError, KeyError: An option does not fit the config.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'There is no config {path}. Give the path of one, such as configs/daft/….py')
    for word in options:
        if '=' not in word:
            raise ValueError(f'{word!r} is not KEY=VALUE, such as model.backbone.depth=18.')
    cfg = Config.fromfile(path, import_custom_modules=import_modules)
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='*', action=DictAction, default={})
    cfg.merge_from_dict(parser.parse_args(['--options', *options]).options)
    if import_modules:
        init_default_scope(cfg.get('default_scope') or 'mmseg')
    return cfg


def type_name(cfg: dict) -> str:
    """Return the name in a config's ``type``, which may be a class or have a scope before it (``mmseg.ResNet``)."""
    kind = cfg.get('type') or ''
    return (kind if isinstance(kind, str) else kind.__name__).rsplit('.', 1)[-1]


def hooks_of(cfg: Config) -> list[dict]:
    """Return the configs of all hooks, default and custom."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return [hook for hook in hooks if isinstance(hook, dict)]


def hook_of(cfg: Config, name: str) -> dict | None:
    """Return the config of the hook of this type, or ``None``."""
    return next((hook for hook in hooks_of(cfg) if type_name(hook) == name), None)


def types_in(cfg: Any) -> Iterator[str]:
    """Yield the names of all types in a nested config."""
    if isinstance(cfg, dict):
        if 'type' in cfg:
            yield type_name(cfg)
        for value in cfg.values():
            yield from types_in(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            yield from types_in(value)
