# Ablation from ImageNet to CamVid's day: LP-FT and the conversion before its second stage, whose batch norm is then in
# train mode. Both stages:
#   mmseg-daft lpft configs/lp/lp_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py configs/ablation/lpft-conversion_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
# The second alone, once the first is done:
#   mmseg-daft train configs/ablation/lpft-conversion_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = '../lpft/lpft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py'
custom_hooks = [dict(type='BNConversionHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.03))
