# Ablation from ImageNet to CamVid's day: integrated LP-FT, two rates without the conversion; the backbone's batch norm in
# eval mode, which is also frozen batch norm (two-rates: in train mode).
#   mmseg-daft train configs/ablation/integrated-lpft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = '../ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=3e-3, head_lr=0.3))
