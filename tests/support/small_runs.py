"""Real mmseg runs of our configs with sizes turned down."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from support import ROOT

CONFIGS = ROOT / 'configs'
SMALL = ROOT / 'tests' / 'support' / 'configs'
FT_VOC = 'ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
DAFT_VOC = 'daft/daft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
_number = itertools.count()


def small(config: str | Path, work_dir: Path, data_root: Path | None = None, iters: int = 2, **options: Any) -> Config:
    """Read a config and turn its sizes down: batch 4, crops of 32, a slim backbone, few iterations.

    It is one of ``CONFIGS``, or anywhere by its whole path. Everything that makes the method stays: hooks, constructor,
    transforms, schedule.
    """
    cfg = Config.fromfile(CONFIGS / config)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{Path(config).stem}_{next(_number)}'
    cfg.visualizer.name = cfg.experiment_name  # mmengine keeps one visualizer per name
    cfg.randomness = dict(seed=0, deterministic=True)
    cfg.env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend='gloo'))
    slim_down(cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            if data_root is not None:
                dataset.data_root = str(data_root / Path(dataset.data_root).name
                                        if (data_root / Path(dataset.data_root).name).is_dir() else data_root)
            for transform in dataset.pipeline:
                if transform['type'] == 'RandomCrop':
                    transform['crop_size'] = (32, 32)
    cfg.train_dataloader.batch_size = cfg.default_hooks.batch.images = 4
    cfg.model.data_preprocessor.size = (32, 32)
    cfg.train_cfg.update(max_iters=iters, val_interval=iters)
    cfg.param_scheduler[0]['end'] = max(iters, 10)
    cfg.default_hooks.checkpoint.interval = iters
    cfg.default_hooks.logger.interval = 1
    cfg.merge_from_dict(options)
    return cfg


def slim_down(model: dict) -> None:
    """Give a model a backbone of 4 base channels, unless it is timm's, and, where it has one, a decoder of 8."""
    if model['backbone']['type'] == 'TIMMBackbone':
        model['decode_head'].update(channels=8)
        return
    head, expansion = model['decode_head'], 1 if model['backbone']['depth'] < 50 else 4
    model['backbone'].update(base_channels=4)
    if model['backbone']['type'] == 'ResNet':
        model['backbone'].update(stem_channels=4)
    head.update(in_channels=32 * expansion, channels=32 * expansion if head.get('num_convs') == 0 else 8)
    if 'c1_channels' in head:
        head.update(c1_in_channels=4 * expansion, c1_channels=4)
    if 'auxiliary_head' in model:
        model['auxiliary_head'].update(in_channels=16 * expansion, channels=8)


class Probe(Hook):
    """Look at a runner at the start of an iteration, after all other hooks."""

    priority = 'LOWEST'

    def __init__(self, look: Any) -> None:
        self.look = look

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.look(runner, data_batch)


def train(cfg: Config, look: Any = None) -> Runner:
    """Train in this process; ``look(runner, batch)`` is called before every iteration."""
    runner = Runner.from_cfg(cfg)
    if look is not None:
        runner.register_hook(Probe(look))
    runner.train()
    return runner


def log_of(runner: Runner) -> str:
    """The text of a run's log file."""
    return next(Path(runner._log_dir).glob('*.log')).read_text()
