# Ablation on VOC 2012 aug from MoCo-v2: DAFT without the conversion, two rates alone; batch norm in train mode.
#   mmseg-daft train configs/ablation/two-rates_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.1))
