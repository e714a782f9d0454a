# Baseline on VOC 2012 aug from MoCo-v2: FT, the backbone's running statistics frozen.
#   mmseg-daft train configs/baselines/frozen-statistics_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
