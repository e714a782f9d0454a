# Ablation from CamVid's day to its dusk: FT and the conversion, at one rate; batch norm in train mode.
#   mmseg-daft train configs/ablation/ft-conversion_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
custom_hooks = [dict(type='BNConversionHook')]
