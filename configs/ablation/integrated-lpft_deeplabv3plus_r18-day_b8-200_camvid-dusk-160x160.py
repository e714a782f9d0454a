# Ablation from CamVid's day to its dusk: integrated LP-FT, two rates without the conversion; the backbone's batch norm in
# eval mode, as the authors' code has it (two-rates: in train mode).
#   mmseg-daft train configs/ablation/integrated-lpft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
