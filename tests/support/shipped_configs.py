"""mmseg's own shipped configs with sizes turned down, and the README's lines pasted into them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mmseg
import torch
from mmengine.config import Config

from support import ROOT
from support.pretrained_files import trained_state

SHIPPED = Path(mmseg.__file__).parent / '.mim' / 'configs'
CROP = (64, 64)


def lines_to_paste() -> str:
    """Return the README's lines for a user's own config."""
    return re.search(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL).group(1)


def paste(shipped: str, folder: Path, data_root: Path, **options: Any) -> Config:
    """Write a shipped config with small sizes and a user's one, which is its child with the README's lines.

    The backbone starts from a file in ``folder``, as wide as mmseg has it unless ``options`` say otherwise.
    """
    cfg = Config.fromfile(SHIPPED / shipped)
    _forget_downloads(cfg.model)
    cfg.merge_from_dict(options)
    cfg.model.update(pretrained=None, test_cfg=dict(mode='whole'))
    cfg.model.data_preprocessor.size = CROP
    start = dict(type='Pretrained', checkpoint=str(folder / 'start.pth'), prefix='backbone')
    torch.save({'state_dict': {f'backbone.{name}': tensor for name, tensor in trained_state(
        dict(cfg.model.backbone, init_cfg=None)).items()}}, folder / 'start.pth')
    cfg.model.backbone.init_cfg = start
    loader = cfg.train_dataloader
    loader.update(num_workers=0, persistent_workers=False, batch_size=2)
    for part in loader.dataset.get('datasets', [loader.dataset]):
        part.data_root = str(data_root)
        for transform in part.pipeline:
            if transform['type'] == 'RandomCrop':
                transform['crop_size'] = CROP
            if transform['type'] in ('RandomResize', 'Resize'):
                transform['scale'] = (160, 80)
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.train_cfg.update(max_iters=2)
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.dump(folder / 'shipped.py')
    (folder / 'mine.py').write_text(
        f"_base_ = './shipped.py'\nwork_dir = {str(folder / 'run')!r}\n{lines_to_paste()}")
    mine = Config.fromfile(folder / 'mine.py')
    mine.experiment_name = mine.visualizer.name = f'{Path(shipped).stem}_{folder.name}'
    return mine


def _forget_downloads(cfg: Any) -> None:
    """Drop every start from a released file, which the tests do not have."""
    for value in cfg.values() if isinstance(cfg, dict) else cfg if isinstance(cfg, (list, tuple)) else ():
        _forget_downloads(value)
    if isinstance(cfg, dict):
        if cfg.get('pretrained'):
            cfg['pretrained'] = None
        start = cfg.get('init_cfg')
        if isinstance(start, dict) and start.get('type') == 'Pretrained':
            del cfg['init_cfg']
