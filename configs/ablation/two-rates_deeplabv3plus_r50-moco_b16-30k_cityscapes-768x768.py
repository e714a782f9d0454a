# Ablation on Cityscapes from MoCo-v2: DAFT without the conversion, two rates alone; batch norm in train mode.
#   mmseg-daft train configs/ablation/two-rates_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
