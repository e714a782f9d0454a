"""The image network of CLIP's RN50 and RN101, as a backbone for dense prediction."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_EXPANSION = 4


@MODELS.register_module()
class CLIPResNet(BaseModule):
    """ResNet as CLIP trained it (Radford et al., ICML 2021; github.com/openai/CLIP, ``ModifiedResNet``).

    Unlike mmseg's ``ResNetV1d``, its stem ends in an average pool, and a stride is an average pool after the 3x3
    convolution. CLIP's attention pooling, which turns an image into one vector, is left out. Parameters have the names
    that they have under ``visual.`` in CLIP's files, at any strides.

    Args:
        depth: 50 or 101.
        base_channels: Channels of the first stage's inner convolutions; CLIP has 64.
        out_indices: The stages to return maps of, from 0.
        strides: Strides of the stages, 1 or 2. With (1, 2, 2, 1) the output stride is 16, with (1, 2, 1, 1) 8.
        dilations: Dilations of the stages' 3x3 convolutions; a stage's first block has half of it, as it still sees the
            map before the stride that the dilation replaces.
        conv_cfg, norm_cfg: The convolution and the normalization layers, as in mmseg.
        frozen_stages: Stages that are not trained and stay in eval mode: -1 is none, 0 the stem, 4 all.
        norm_eval: Keep all batch norm in eval mode.
        init_cfg: The initialization, as in MMEngine; by default Kaiming's random weights.

    Raises:
        ValueError: The depth is another, or strides, dilations or ``out_indices`` do not fit four stages.
    """

    def __init__(
        self,
        depth: int = 50,
        base_channels: int = 64,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or [dict(type='Kaiming', layer='Conv2d'),
                                      dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])])
        if depth not in _BLOCKS:
            raise ValueError(f'CLIPResNet has depth={depth!r}; CLIP released ResNets of depth {sorted(_BLOCKS)}.')
        for name, numbers, allowed in (('strides', strides, {1, 2}), ('dilations', dilations, {1, 2, 4, 8})):
            if len(numbers) != 4 or not set(numbers) <= allowed:
                raise ValueError(f'CLIPResNet has {name}={tuple(numbers)}: four stages need four of {sorted(allowed)}.')
        if not out_indices or not set(out_indices) <= {0, 1, 2, 3}:
            raise ValueError(f'CLIPResNet has out_indices={tuple(out_indices)!r}: name stages from 0 to 3.')
        if not -1 <= frozen_stages <= 4:
            raise ValueError(f'CLIPResNet has frozen_stages={frozen_stages!r}: -1 is none, 0 the stem, 4 all.')
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        layers = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg or dict(type='BN'))
        half = base_channels // 2
        self.conv1, self.bn1 = _conv_norm(3, half, 3, stride=2, padding=1, **layers)
        self.conv2, self.bn2 = _conv_norm(half, half, 3, padding=1, **layers)
        self.conv3, self.bn3 = _conv_norm(half, base_channels, 3, padding=1, **layers)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(2)
        in_channels = base_channels
        for stage, count in enumerate(_BLOCKS[depth]):
            channels, dilation = base_channels * 2**stage, dilations[stage]
            blocks = [_Bottleneck(in_channels, channels, strides[stage], max(1, dilation // 2), **layers)]
            in_channels = channels * _EXPANSION
            blocks += [_Bottleneck(in_channels, channels, 1, dilation, **layers) for _ in range(1, count)]
            self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices`` for images (N, 3, H, W), normalized with CLIP's mean and deviation."""
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = self.relu(norm(conv(x)))
        x = self.avgpool(x)
        maps = []
        for stage in range(max(self.out_indices) + 1):
            x = getattr(self, f'layer{stage + 1}')(x)
            if stage in self.out_indices:
                maps.append(x)
        return tuple(maps)

    def train(self, mode: bool = True) -> nn.Module:
        """Switch between train and eval mode; what is frozen stays in eval mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        stem = [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]
        stages = [getattr(self, f'layer{stage}') for stage in range(1, self.frozen_stages + 1)]
        for module in stem * (self.frozen_stages >= 0) + stages:
            module.eval().requires_grad_(False)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution; a stride is an average pool after the second, and on the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, **layers: Any) -> None:
        super().__init__()
        out_channels = channels * _EXPANSION
        self.conv1, self.bn1 = _conv_norm(in_channels, channels, 1, **layers)
        self.conv2, self.bn2 = _conv_norm(channels, channels, 3, padding=dilation, dilation=dilation, **layers)
        self.conv3, self.bn3 = _conv_norm(channels, out_channels, 1, **layers)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            conv, norm = _conv_norm(in_channels, out_channels, 1, **layers)
            self.downsample = nn.Sequential(OrderedDict({'-1': nn.AvgPool2d(stride), '0': conv, '1': norm}))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(self.relu(self.bn2(self.conv2(x))))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def _conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, conv_cfg: dict | None, norm_cfg: dict, **options: Any,
) -> tuple[nn.Module, nn.Module]:
    conv = build_conv_layer(conv_cfg, in_channels, out_channels, kernel_size, bias=False, **options)
    return conv, build_norm_layer(norm_cfg, out_channels)[1]
