# Baseline from CamVid's day to its dusk: surgical fine-tuning: stem, stage 1 and head alone.
#   mmseg-daft train configs/baselines/surgical_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
# Ours: the first layers, for a shift of the input; the paper tunes the last ones for a shift of the labels.
optim_wrapper = dict(paramwise_cfg=dict(stage_lr_mult=dict(stage2=0, stage3=0, stage4=0)))
custom_hooks = [
    dict(type='BNTestModeHook', modules=('backbone.layer2', 'backbone.layer3', 'backbone.layer4'))]
