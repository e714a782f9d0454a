# Ablation from the shapes' source domain to their target domain: LP-FT and the conversion before its second stage. Both stages:
#   mmseg-daft lpft configs/lp/lp_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py configs/ablation/lpft-conversion_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py
# The second alone, once the first is done:
#   mmseg-daft train configs/ablation/lpft-conversion_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py
_base_ = '../lpft/lpft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'
custom_hooks = [dict(type='BNConversionHook'), dict(type='BNTestModeHook')]
