# Baseline on VOC 2012 aug from MoCo-v2: FT, each stage at 0.7 of the next one's rate.
#   mmseg-daft train configs/baselines/layer-decay_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
# Ours: not swept.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.7))
