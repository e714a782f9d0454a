# Ablation on VOC 2012 aug from MoCo-v2: LP-FT and the conversion before its second stage, whose batch norm is then in train
# mode, as in the authors' code. Both stages:
#   mmseg-daft lpft configs/lp/lp_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py configs/ablation/lpft-conversion_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
# The second alone, once the first is done:
#   mmseg-daft train configs/ablation/lpft-conversion_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../lpft/lpft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
custom_hooks = [dict(type='BNConversionHook')]
