# LP from ImageNet to CamVid's day: the backbone keeps its weights and statistics, the head is trained.
#   mmseg-daft train configs/lp/lp_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = '../ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=0.3))
