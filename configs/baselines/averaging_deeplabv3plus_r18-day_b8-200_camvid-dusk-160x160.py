# Baseline from CamVid's day to its dusk: FT, the mean of its weights over the second half.
#   mmseg-daft train configs/baselines/averaging_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
custom_hooks = [dict(type='WeightAveragingHook', begin=0.5)]
