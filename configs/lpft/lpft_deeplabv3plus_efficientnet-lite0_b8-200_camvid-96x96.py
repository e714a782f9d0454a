# LP-FT from ImageNet to CamVid's day: from the head of LP, all batch norm in eval mode, a small rate. Both stages:
#   mmseg-daft lpft configs/lp/lp_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py configs/lpft/lpft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
# The second alone, once the first is done:
#   mmseg-daft train configs/lpft/lpft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = '../ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/lp_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96/iter_200.pth'),
    backbone=dict(init_cfg=None))
custom_hooks = [dict(type='BNTestModeHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=3e-3, head_lr=3e-3))
