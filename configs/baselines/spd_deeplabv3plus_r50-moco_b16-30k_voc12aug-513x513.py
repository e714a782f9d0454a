# Baseline on VOC 2012 aug from MoCo-v2: FT with selective projection decay in the backbone.
#   mmseg-daft train configs/baselines/spd_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
# Ours: not swept.
custom_hooks = [dict(type='SPDHook', strength=1.0)]
