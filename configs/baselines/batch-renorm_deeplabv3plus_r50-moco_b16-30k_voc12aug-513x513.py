# Baseline on VOC 2012 aug from MoCo-v2: FT with Batch Renormalization in the backbone.
#   mmseg-daft train configs/baselines/batch-renorm_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_voc12aug-513x513.py'
model = dict(backbone=dict(norm_cfg=dict(type='BatchRenorm')))
