# Baseline from CamVid's day to its dusk: FT with Batch Renormalization in the backbone.
#   mmseg-daft train configs/baselines/batch-renorm_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
model = dict(backbone=dict(norm_cfg=dict(type='BatchRenorm')))
