"""KEY=VALUE options, as mmseg's own tools read ``--cfg-options``."""

from __future__ import annotations

import argparse

from mmengine.config import Config, DictAction


def merge_options(cfg: Config, options: list[str]) -> None:
    """Merge a command's ``KEY=VALUE`` options into a config.

    Raises:
        ValueError: One of them has no ``=``.
        TypeError, KeyError: It does not fit the config.
    """
    reader = argparse.ArgumentParser()
    reader.add_argument('--options', nargs='*', action=DictAction, default={})
    cfg.merge_from_dict(reader.parse_args(['--options', *options]).options)
