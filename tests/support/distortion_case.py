"""Small real runs to analyse: a pre-trained start, FT and DAFT trained from it, on data in VOC's layout."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from support.data_layouts import write_voc
from support.pretrained_files import trained_state
from support.small_runs import SMALL, small, train

IMAGES = 7


class DistortionCase:
    """A config file, the start's checkpoint, and two trained runs.

    The start is a whole segmentor, so that it predicts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / 'day'
        self.root.mkdir()
        write_voc(self.root, num_classes=6, val=IMAGES)
        cfg = self.read('ft')
        self.start = folder / 'start.pth'
        state = trained_state(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
        torch.save({'meta': {}, 'state_dict': state}, self.start)
        for method in ('ft', 'daft'):
            train(self.with_start(self.read(method)))
        self.config = self.write(self.with_start(self.read('ft')))

    def read(self, method: str, iters: int = 2, **options: Any) -> Any:
        return small(SMALL / f'{method}.py', self.folder / method, self.folder, iters, **options)

    def with_start(self, cfg: Any) -> Any:
        cfg.model.backbone.init_cfg.checkpoint = str(self.start)
        return cfg

    def write(self, cfg: Any, name: str = 'config.py') -> Path:
        cfg.pop('experiment_name', None)
        path = self.folder / name
        path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
        return path

    def checkpoint(self, method: str) -> Path:
        return self.folder / method / 'iter_2.pth'

    def changed(self, name: str, checkpoint: Path, change: Any) -> Path:
        """Write a copy of a checkpoint that ``change`` was let at."""
        content = torch.load(checkpoint, weights_only=False)
        change(content)
        torch.save(content, self.folder / name)
        return self.folder / name


def rows(path: Path, **where: str) -> list[dict[str, str]]:
    """Read the rows of a tidy file that have some values."""
    with path.open(encoding='utf-8') as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in where.items())]
