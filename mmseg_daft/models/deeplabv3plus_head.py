"""The DeepLabv3+ decoder of the public PyTorch recipe that the paper's numbers fit."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DeepLabV3PlusHead(BaseDecodeHead):
    """DeepLabv3+ with plain 3x3 convolutions (Chen et al., ECCV 2018; github.com/VainF/DeepLabV3Plus-Pytorch).

    mmseg's ``DepthwiseSeparableASPPHead`` differs in five places: its dilated branches and its two decoder convolutions
    are depthwise separable, it projects the branches with a 3x3 convolution, decodes with two convolutions, and drops
    whole channels just before the classifier. Here the branches are plain, the projection is 1x1, one convolution
    decodes, and single elements are dropped right after the projection.

    Args:
        c1_in_channels: Channels of the low-level features, the first of the inputs.
        c1_channels: Channels that they are projected to.
        dilations: Dilations of the branches; 1 is a 1x1 convolution. 6, 12, 18 go with output stride 16, twice as much
            with 8.
        dropout_ratio: The probability of dropout after the projection.
        **kwargs: Passed to mmseg's ``BaseDecodeHead``: ``in_channels``, ``channels``, ``num_classes``, …
    """

    def __init__(
        self, c1_in_channels: int, c1_channels: int, dilations: Sequence[int] = (1, 6, 12, 18),
        dropout_ratio: float = 0.1, **kwargs: Any,
    ) -> None:
        super().__init__(dropout_ratio=0, **kwargs)
        layers = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), ConvModule(self.in_channels, self.channels, 1, **layers))
        self.aspp_modules = ASPPModule(dilations, self.in_channels, self.channels, **layers)
        self.project = nn.Sequential(
            ConvModule((len(dilations) + 1) * self.channels, self.channels, 1, **layers), nn.Dropout(dropout_ratio))
        self.c1_project = ConvModule(c1_in_channels, c1_channels, 1, **layers)
        self.decode = ConvModule(self.channels + c1_channels, self.channels, 3, padding=1, **layers)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits, (N, num_classes, H, W) in the size of the low-level features, the first of the inputs."""
        x = self._transform_inputs(inputs)
        pooled = self.image_pool(x).expand(-1, -1, *x.shape[2:])
        x = self.project(torch.cat([pooled, *self.aspp_modules(x)], dim=1))
        low = self.c1_project(inputs[0])
        x = resize(x, size=low.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return self.cls_seg(self.decode(torch.cat([low, x], dim=1)))
