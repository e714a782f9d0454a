# Baseline on VOC 2012 aug from MoCo-v2: surgical fine-tuning: stem, stage 1 and head alone.
#   mmseg-daft train configs/baselines/surgical_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
# Ours: the first layers, for a shift of the input; the paper tunes the last ones for a shift of the labels.
optim_wrapper = dict(paramwise_cfg=dict(stage_lr_mult=dict(stage2=0, stage3=0, stage4=0)))
custom_hooks = [
    dict(type='BNTestModeHook', modules=('backbone.layer2', 'backbone.layer3', 'backbone.layer4'))]
