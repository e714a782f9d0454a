"""What the offline commands share: the model and the pass of a config, without a runner and without training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmseg_daft  # noqa: F401  (repairs what mmseg needs, so it comes first)

# isort: split
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import HOOKS
from mmengine.runner import Runner, load_checkpoint
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm, find_batch_norms
from mmseg_daft.core.random_state import preserved_random_state, seed_everything
from mmseg_daft.engine.configs import read_config
from mmseg_daft.engine.convert_model import PassResult, PassSettings, convertible_layers, run_pass
from mmseg_daft.engine.hooks.bn_conversion_hook import BNConversionHook
from mmseg_daft.engine.pretrained_weights import match_file
from mmseg_daft.engine.statistics_file import cached_pass
from mmseg_daft.engine.training_data import ModelForward


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that the offline commands have in common."""
    parser.add_argument('--modules', nargs='+', help="submodules whose layers are meant (default: the config's "
                        'BNConversionHook, or the backbone)')
    parser.add_argument('--num-batches', type=int, help='mini-batches of the pass (default: likewise, or all)')
    parser.add_argument('--cache-dir', help='folder of statistics files to read from and write to')
    parser.add_argument('--device', help='default: cuda if there is one, or cpu')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE')


@dataclass(frozen=True)
class OfflinePass:
    """A config's pass, ready to run.

    Attributes:
        cfg: The config.
        hook: The conversion that the config asks for, or the paper's.
        model: The pre-trained model, in test mode.
        found: Batch-norm layers in scope.
        layers: Those that can be converted.
        forward: As much of the model as they need.
        loader: The training loader.
        settings: What else the pass depends on.
        head_loaded: Whether the decoder's weights are the checkpoint's, too.
    """

    cfg: Config
    hook: BNConversionHook
    model: BaseSegmentor
    found: dict[str, BatchNorm]
    layers: dict[str, BatchNorm]
    forward: ModelForward
    loader: DataLoader
    settings: PassSettings
    head_loaded: bool

    def run(self) -> PassResult:
        """Make the pass, or read its result from the folder of statistics files."""
        with preserved_random_state():
            arguments = (self.forward, self.layers, self.loader, self.settings)
            if not self.hook.cache_dir:
                return run_pass(*arguments)
            return partial(cached_pass, Path(self.hook.cache_dir), MMLogger.get_current_instance())(*arguments)


def prepare(args: argparse.Namespace, config: str, checkpoint: str | None) -> OfflinePass:
    """Build the model and the loader of a config.

    Args:
        args: Those of ``add_arguments``.
        config: A training config on the target domain.
        checkpoint: A segmentor's checkpoint; ``None`` for the start that the config names by ``init_cfg``.

    Raises:
        SystemExit: A file is missing, or the checkpoint does not fit.
        ValueError: As of ``BNConversionHook``.
    """
    for path in filter(None, (config, checkpoint)):
        if not Path(path).is_file():
            raise SystemExit(f'There is no file {path}.')
    cfg = read_config(config, args.cfg_options)
    seed = cfg.get('randomness', {}).get('seed') or 0
    seed_everything(seed)
    hook = _hook(cfg, args)
    model, head_loaded = _model(cfg, checkpoint)
    model.to(args.device or ('cuda' if torch.cuda.is_available() else 'cpu')).eval()
    found = find_batch_norms(model, hook.modules)
    layers = convertible_layers(found, hook.modules, hook.allow_untrained)
    loader_cfg = cfg.train_dataloader.copy()
    loader_cfg['persistent_workers'] = False
    loader = Runner.build_dataloader(loader_cfg, seed=seed)
    settings = PassSettings(seed, hook.num_batches, by_batch=not hook.variant.compensate, stop=hook.stop)
    return OfflinePass(cfg, hook, model, found, layers, ModelForward(model, found), loader, settings, head_loaded)


def _hook(cfg: Config, args: argparse.Namespace) -> BNConversionHook:
    """Return the config's conversion hook, with what the command line says."""
    named = [dict(hook) for hook in cfg.get('custom_hooks') or () if hook['type'] in (
        'BNConversionHook', BNConversionHook)] or [dict(type='BNConversionHook')]
    given = {key: value for key, value in vars(args).items() if value is not None}
    return HOOKS.build({**named[0], **{key: given[key] for key in ('modules', 'num_batches', 'cache_dir')
                                       if key in given}})


def _model(cfg: Config, checkpoint: str | None) -> tuple[BaseSegmentor, bool]:
    model_cfg = cfg.model.copy()
    if checkpoint is not None:
        for part in ('backbone', 'neck'):
            if model_cfg.get(part):
                model_cfg[part] = dict(model_cfg[part], init_cfg=None)
        model_cfg.update(init_cfg=None, pretrained=None)
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    if checkpoint is None:
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel('WARNING')  # or MMEngine logs some lines for every parameter
        try:
            model.init_weights()
        finally:
            logger.setLevel(level)
        return model, False
    refuse_poor_match(model, checkpoint)
    head = {name: tensor for name, tensor in model.state_dict().items() if name.startswith('decode_head.')}
    head_loaded = match_file(head, checkpoint).problem(1.0) is None
    load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
    return model, head_loaded


def refuse_poor_match(model: BaseSegmentor, checkpoint: str, parts: Sequence[str] = ('backbone.', 'neck.')) -> None:
    """Check that a checkpoint fills the extractor.

    Raises:
        SystemExit: It does not; the message says what is missing.
    """
    state: dict[str, Any] = {
        name: tensor for name, tensor in model.state_dict().items() if name.startswith(tuple(parts))}
    problem = match_file(state, checkpoint).problem(1.0)
    if problem:
        raise SystemExit(f"{checkpoint} does not fit the config's backbone: {problem} A file in another layout is "
                         "named by the config's init_cfg, with its prefix, and not on the command line.")
