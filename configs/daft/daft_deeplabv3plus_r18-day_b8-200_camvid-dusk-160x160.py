# DAFT from CamVid's day to its dusk; first train the source model (configs/source).
#   CAMVID_ROOT=/path/to/camvid mmseg-daft train configs/daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
custom_hooks = [dict(type='BNConversionHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
