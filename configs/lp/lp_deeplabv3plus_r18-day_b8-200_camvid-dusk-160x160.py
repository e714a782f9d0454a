# LP from CamVid's day to its dusk: the backbone frozen and in eval mode, the head trained.
#   mmseg-daft train configs/lp/lp_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
# Ours: not swept.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=0.3))
