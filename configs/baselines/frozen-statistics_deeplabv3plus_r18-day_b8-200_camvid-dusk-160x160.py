# Baseline from CamVid's day to its dusk: FT, the backbone's running statistics frozen.
#   mmseg-daft train configs/baselines/frozen-statistics_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
