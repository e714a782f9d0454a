"""Write pre-trained weights in the key layouts of the released files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_daft.models.efficientnet_lite import SCHEME, installed_file
from support.networks import pretrained


def write_start(cfg: Config, folder: Path) -> Path | None:
    """Write the file that a config starts from, in its real layout, and point the config to it.

    Returns:
        The path, or ``None`` if the config starts from scratch.
    """
    for module in (cfg.model, cfg.model.backbone):
        start = module.get('init_cfg')
        if start:
            name = start.checkpoint.removeprefix('torchscript://').rsplit('/', 1)[-1]
            path = folder / name
            if start.checkpoint.startswith(SCHEME):
                return installed_file(name)  # the real one
            if module is cfg.model:
                torch.save({'state_dict': trained_state(dict(cfg.model, init_cfg=None))}, path)
            elif name.endswith('.pt'):
                write_clip(path, cfg.model)
            else:
                layout = {'module.encoder_q': write_moco, 'module': write_swav, 'backbone': write_mmseg}
                layout.get(start.get('prefix'), write_torchvision)(path, cfg.model)
            start.checkpoint = start.checkpoint[:14 if name.endswith('.pt') else 0] + str(path)
            return path
    return None


def trained_state(cfg: dict, seed: int = 0) -> dict[str, Tensor]:
    """Build a module without its own start, and return its state with batch norm as in a trained one."""
    torch.manual_seed(seed)
    cfg = {key: value for key, value in cfg.items() if key != 'data_preprocessor'}
    model = MODELS.build(_plain(cfg))
    pretrained(model)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.weight.data.mul_(0.2).add_(1)
    return model.state_dict()


def backbone_state(model: dict) -> dict[str, Tensor]:
    """Return the state of a model's backbone, with batch norm as in a trained one."""
    return trained_state(dict(model['backbone'], init_cfg=None))


def write_moco(path: Path, model: dict, **others: Any) -> Path:
    """Write a file of MoCo-v2: query and key encoder, queue, under ``state_dict``."""
    state = backbone_state(model)
    content = {f'module.encoder_{which}.{name}': tensor for which in 'qk' for name, tensor in state.items()}
    width = list(state.values())[-2].shape[0]
    content.update({'module.encoder_q.fc.0.weight': torch.zeros(width, width), 'module.queue': torch.zeros(8, 16),
                    'module.queue_ptr': torch.zeros(1, dtype=torch.long)})
    torch.save({'epoch': 800, 'arch': 'resnet50', 'state_dict': {**content, **others}, 'optimizer': {}}, path)
    return path


def write_swav(path: Path, model: dict) -> Path:
    """Write a file of SwAV: flat, with projection head and prototypes."""
    state = {f'module.{name}': tensor for name, tensor in backbone_state(model).items()}
    torch.save({**state, 'module.projection_head.0.weight': torch.zeros(4, 4),
                'module.prototypes.weight': torch.zeros(4, 4)}, path)
    return path


def write_torchvision(path: Path, model: dict) -> Path:
    """Write a file of torchvision: flat, with the classifier, and without counters as in its older files."""
    state = {name: tensor for name, tensor in backbone_state(model).items() if 'num_batches' not in name}
    torch.save({**state, 'fc.weight': torch.zeros(4, 4), 'fc.bias': torch.zeros(4)}, path)
    return path


def write_mmseg(path: Path, model: dict) -> Path:
    """Write a segmentor's checkpoint: the backbone, and a head beside it."""
    state = {f'backbone.{name}': tensor for name, tensor in backbone_state(model).items()}
    torch.save({'meta': {}, 'state_dict': {**state, 'decode_head.conv_seg.bias': torch.zeros(11)}}, path)
    return path


class _CLIP(nn.Module):
    """What is in CLIP's archive, as far as names go."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.transformer = nn.Sequential(nn.Linear(4, 4))
        self.logit_scale = nn.Parameter(torch.ones([]))

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(x) * self.logit_scale


class _Tree(nn.Module):
    """Parameters and buffers under given dotted names."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _tree(state: dict[str, Tensor]) -> nn.Module:
    root = _Tree()
    for name, tensor in state.items():
        *parts, last = name.split('.')
        module = root
        for part in parts:
            if part not in module._modules:
                module.add_module(part, _Tree())
            module = module._modules[part]
        if 'running' in last or 'num_batches' in last:
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, nn.Parameter(tensor))
    return root


def write_clip(path: Path, model: dict) -> Path:
    """Write CLIP's RN50: a TorchScript archive in half precision, with attention pooling and a text transformer."""
    state = backbone_state(model)
    if model.get('neck'):
        pooling = trained_state(dict(model['neck'], init_cfg=None))
        state.update({f'attnpool.{name}': tensor for name, tensor in pooling.items()})
    else:
        state['attnpool.positional_embedding'] = torch.zeros(5, 4)
    torch.jit.script(_CLIP(_tree(state)).half()).save(str(path))
    return path


def _plain(cfg: Any) -> Any:
    """Copy a config with plain batch norm in place of SyncBN."""
    if isinstance(cfg, dict):
        return {key: 'BN' if key == 'type' and value == 'SyncBN' else _plain(value) for key, value in cfg.items()}
    return [_plain(value) for value in cfg] if isinstance(cfg, (list, tuple)) else cfg
