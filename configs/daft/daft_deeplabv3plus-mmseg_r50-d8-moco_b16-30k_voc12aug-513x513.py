# DAFT on VOC 2012 aug from MoCo-v2 with mmseg's own DeepLabv3+.
#   mmseg-daft train configs/daft/daft_deeplabv3plus-mmseg_r50-d8-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus-mmseg_r50-d8-moco_b16-30k_voc12aug-513x513.py'
custom_hooks = [dict(type='BNConversionHook')]
# Ours: the paper sweeps backbone_lr, then head_lr, and does not say which ones won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.1))
