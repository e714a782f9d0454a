# Ablation on VOC 2012 aug from MoCo-v2: integrated LP-FT, that is DAFT without the conversion: two rates alone.
#   mmseg-daft train configs/ablation/integrated-lpft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.1))
