# Ablation from ImageNet to CamVid's day: FT and the conversion, at one rate; batch norm in train mode.
#   mmseg-daft train configs/ablation/ft-conversion_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = '../ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py'
custom_hooks = [dict(type='BNConversionHook')]
