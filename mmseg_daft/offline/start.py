"""The pre-trained model and the training data of a config, without a runner."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner, load_checkpoint
from torch.utils.data import DataLoader

from mmseg_daft.core.random_state import seed_everything
from mmseg_daft.engine.checkpoints import pretrained_model, read_checkpoint
from mmseg_daft.engine.configs import hook_of, model_of, read_config
from mmseg_daft.engine.convert_model import ConversionRecord, ConversionSettings, convert_model
from mmseg_daft.engine.pretrained_weights import match_weights
from mmseg_daft.files import refuse_unwritable


@dataclass(frozen=True)
class Start:
    """What a training would begin with.

    Attributes:
        cfg: The config.
        model: The pre-trained model, in eval mode.
        loader: The training loader.
        settings: The conversion that the config asks for, or the paper's.
        seed: Of the pass.
        head_loaded: Whether the decoder's weights are the checkpoint's, too.
    """

    cfg: Config
    model: BaseModel
    loader: DataLoader
    settings: ConversionSettings
    seed: int
    head_loaded: bool

    def convert(self, settings: ConversionSettings | None = None) -> ConversionRecord:
        """Convert the model in place, as ``BNConversionHook`` does before training."""
        return convert_model(self.model, self.loader, settings or self.settings, self.seed, self.cfg)


def read_start(args: argparse.Namespace, checkpoint: str | None) -> Start:
    """Build the model and the loader of a config.

    Args:
        args: ``config``, a training config on the target domain, and those of ``offline.add_arguments``.
        checkpoint: A segmentor's checkpoint; ``None`` for the config's start, by ``load_from`` or ``init_cfg``.

    Raises:
        SystemExit: The checkpoint is missing or does not fit.
        ConfigError: The config or an option is wrong.
        ValueError: As ``BNConversionHook``, there is no such device, or the file of statistics cannot be written.
    """
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise SystemExit(f'There is no checkpoint {checkpoint}. Name one that is there, or train the model that '
                         'writes it.')
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        float(torch.zeros((), device=device))
    except Exception as error:  # of any type: torch asserts that it was built for CUDA
        raise ValueError(f'--device {device}: {str(error).splitlines()[0]}. Name another, such as cuda:0 or '
                         'cpu.') from error
    if args.statistics and '{' not in args.statistics and not Path(args.statistics).is_file():
        refuse_unwritable(Path(args.statistics))
    cfg = read_config(args.config, args.cfg_options, needs=('model', 'train_dataloader'))
    seed = cfg.get('randomness', {}).get('seed') or 0
    seed_everything(seed)
    given = {key: getattr(args, key) for key in ('modules', 'num_batches', 'statistics')
             if getattr(args, key) is not None}
    arguments = dict(hook_of(cfg, 'BNConversionHook') or {}, **given, type='BNConversionHook')
    arguments.pop('priority', None)  # MMEngine's, of the order of hooks
    hook = HOOKS.build(arguments)
    model, head_loaded = _model(cfg, checkpoint or cfg.get('load_from'))
    model.to(device).eval()
    loader = Runner.build_dataloader(dict(cfg.train_dataloader, persistent_workers=False), seed=seed)
    return Start(cfg, model, loader, hook.settings, seed, head_loaded)


def _model(cfg: Config, checkpoint: str | None) -> tuple[BaseModel, bool]:
    if checkpoint is None:
        return pretrained_model(cfg, None), False
    model_cfg = model_of(cfg)
    for part in ('backbone', 'neck'):
        if model_cfg.get(part):
            model_cfg[part] = dict(model_cfg[part], init_cfg=None)
    model_cfg.update(init_cfg=None, pretrained=None)
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    state, file = model.state_dict(), read_checkpoint(checkpoint)[0]
    parts = {part: {name: tensor for name, tensor in state.items() if name.startswith(part)} for part in (
        ('backbone.', 'neck.'), 'decode_head.')}
    if problem := match_weights(parts['backbone.', 'neck.'], file).problem(1.0):
        raise SystemExit(f"{checkpoint} does not fit the config's backbone: {problem} A file in another layout is "
                         "named by the config's init_cfg, with its prefix, and not on the command line.")
    head_loaded = match_weights(parts['decode_head.'], file).problem(1.0) is None
    load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
    return model, head_loaded
