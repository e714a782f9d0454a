# Baseline from CamVid's day to its dusk: FT with selective projection decay in the backbone.
#   mmseg-daft train configs/baselines/spd_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
# Ours: not swept.
custom_hooks = [dict(type='SPDHook', strength=1.0)]
