# Ablation from CamVid's day to its dusk: DAFT without the conversion, two rates alone; batch norm in train mode.
#   mmseg-daft train configs/ablation/two-rates_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
