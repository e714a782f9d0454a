# Baseline from CamVid's day to its dusk: FT, the backbone's batch norm frozen: statistics, γ and β.
#   mmseg-daft train configs/baselines/frozen-bn_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
model = dict(backbone=dict(norm_cfg=dict(requires_grad=False)))
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
