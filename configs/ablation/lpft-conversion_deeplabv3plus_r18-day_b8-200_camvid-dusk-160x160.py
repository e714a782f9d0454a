# Ablation from CamVid's day to its dusk: LP-FT and the conversion before its second stage, whose batch norm is then in train
# mode, as in the authors' code. Both stages:
#   mmseg-daft lpft configs/lp/lp_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py configs/ablation/lpft-conversion_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
# The second alone, once the first is done:
#   mmseg-daft train configs/ablation/lpft-conversion_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../lpft/lpft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
custom_hooks = [dict(type='BNConversionHook')]
