# Baseline from CamVid's day to its dusk: FT with L2-SP in the backbone.
#   mmseg-daft train configs/baselines/l2-sp_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
# Ours: not swept.
custom_hooks = [dict(type='L2SPHook', strength=0.01)]
