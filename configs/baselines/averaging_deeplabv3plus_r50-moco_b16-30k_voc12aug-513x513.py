# Baseline on VOC 2012 aug from MoCo-v2: FT, the mean of its weights over the second half.
#   mmseg-daft train configs/baselines/averaging_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
custom_hooks = [dict(type='WeightAveragingHook', begin=0.5)]
