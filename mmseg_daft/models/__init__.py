"""Backbones, decoders and checkpoint formats that MMSegmentation lacks, registered with it."""

from mmseg_daft.models.batch_renorm import BatchRenorm2d
from mmseg_daft.models.clip_resnet import CLIPResNet
from mmseg_daft.models.deeplabv3plus_head import DeepLabV3PlusHead
from mmseg_daft.models.efficientnet_lite import load_from_efficientnet_lite
from mmseg_daft.models.torchscript import load_from_torchscript

__all__ = [
    'BatchRenorm2d', 'CLIPResNet', 'DeepLabV3PlusHead', 'load_from_efficientnet_lite', 'load_from_torchscript']
