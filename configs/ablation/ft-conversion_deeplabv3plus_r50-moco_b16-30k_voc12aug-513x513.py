# Ablation on VOC 2012 aug from MoCo-v2: FT and the conversion, at one rate; batch norm in train mode.
#   mmseg-daft train configs/ablation/ft-conversion_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
custom_hooks = [dict(type='BNConversionHook')]
