# DAFT from ImageNet to CamVid's day.
#   mmseg-daft train configs/daft/daft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = '../ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py'
custom_hooks = [dict(type='BNConversionHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
