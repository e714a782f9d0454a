# Baseline from CamVid's day to its dusk: FT, each stage at 0.7 of the next one's rate.
#   mmseg-daft train configs/baselines/layer-decay_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
# Ours: not swept.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.7))
