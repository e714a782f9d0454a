"""The config, read as the training script reads it, and the model in it."""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from mmseg_daft.doctor.finding import Problem, describe
from mmseg_daft.engine.configs import merge_options


def read_config(path: Path, options: list[str]) -> Config:
    """Read a config with the command's options.

    Raises:
        Problem: There is no such file, it or a base cannot be read, or an option does not fit.
    """
    if not path.is_file():
        raise Problem(f'There is no config {path}.', 'Give the path of a config, such as configs/daft/….py')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        gone = 'pkg_resources' in str(error)
        raise Problem(f'{path} cannot be read. {_where(error)}{describe(error)}',
                      "pip install 'setuptools<82', for bases mmseg::…" if gone else '') from error
    try:
        merge_options(cfg, options)
    except Exception as error:
        raise Problem(f'--cfg-options {" ".join(options)}: {describe(error)}', 'Write KEY=VALUE, such as '
                      'train_dataloader.batch_size=8') from error
    missing = [key for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper') if not cfg.get(key)]
    if missing:
        raise Problem(f'{path} lacks {", ".join(missing)}, so nothing can be trained from it.',
                      'Give a whole config, not one of its bases.')
    init_default_scope(cfg.get('default_scope') or 'mmseg')
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
        fix = f'Install {", ".join(missing)}, which the config imports where it is there.' if missing else ''
        raise Problem(describe(error), fix) from error


def custom_imports(cfg: Config) -> list[str]:
    """Return the modules that a config has imported."""
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    return [names] if isinstance(names, str) else list(names)


def hooks_of(cfg: Config) -> list[dict]:
    """Return the configs of all hooks, default and custom."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return [hook for hook in hooks if isinstance(hook, dict)]


def hook_of(cfg: Config, name: str) -> dict | None:
    """Return the config of the hook of this type, or ``None``."""
    return next((hook for hook in hooks_of(cfg) if type_name(hook) == name), None)


def type_name(cfg: dict) -> str:
    """Return the name in a config's ``type``, which may be a class."""
    kind = cfg.get('type', '')
    return (kind if isinstance(kind, str) else kind.__name__).rsplit('.', 1)[-1]


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


def environment_variables(cfg: Config) -> list[str]:
    """Return the environment variables that a config and its bases ask for, such as ``VOC_ROOT``."""
    return sorted(set(re.findall(r'\{\{[\'"]?\s*\$(\w+)\s*:', cfg.text)))


def _where(error: Exception) -> str:
    return f'Line {error.lineno}: ' if isinstance(error, SyntaxError) else ''
