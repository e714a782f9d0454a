# Ablation on Cityscapes from MoCo-v2: integrated LP-FT, two rates without the conversion; the backbone's batch norm in
# eval mode, as the authors' code has it (two-rates: in train mode).
#   mmseg-daft train configs/ablation/integrated-lpft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
