# Ablation on VOC 2012 aug from MoCo-v2: integrated LP-FT, two rates without the conversion; the backbone's batch norm in
# eval mode, as the authors' code has it (two-rates: in train mode).
#   mmseg-daft train configs/ablation/integrated-lpft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.1))
