"""Backbones, decoders and checkpoint formats that MMSegmentation lacks, registered with it."""

from mmseg_daft.models.deeplabv3plus_head import DeepLabV3PlusHead

__all__ = ['DeepLabV3PlusHead']
