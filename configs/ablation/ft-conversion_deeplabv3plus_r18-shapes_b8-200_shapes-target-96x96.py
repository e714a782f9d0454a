# Ablation from the shapes' source domain to their target domain: FT and the conversion, at one rate.
#   mmseg-daft train configs/ablation/ft-conversion_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py
_base_ = '../ft/ft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'
custom_hooks = [dict(type='BNConversionHook')]
