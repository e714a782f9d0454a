# DAFT from CamVid's day to its dusk with a linear head, which starts at zero.
#   mmseg-daft train configs/daft/daft_linear_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_linear_r18-day_b8-200_camvid-dusk-160x160.py'
model = dict(decode_head=dict(init_cfg=dict(type='ZeroHead')))
custom_hooks = [dict(type='BNConversionHook')]
# Ours: not swept.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
