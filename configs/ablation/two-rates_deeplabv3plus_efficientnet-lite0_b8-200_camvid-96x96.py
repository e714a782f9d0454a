# Ablation from ImageNet to CamVid's day: DAFT without the conversion, two rates alone; batch norm in train mode. The rates
# are those of its own sweep: DAFT's backbone_lr is 0.03.
#   mmseg-daft train configs/ablation/two-rates_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = '../ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.3))
