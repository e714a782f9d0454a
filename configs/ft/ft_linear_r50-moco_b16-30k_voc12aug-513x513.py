# FT on VOC 2012 aug from MoCo-v2 with a linear head.
#   mmseg-daft train configs/ft/ft_linear_r50-moco_b16-30k_voc12aug-513x513.py
_base_ = [
    '../_base_/models/linear_r50-moco.py', '../_base_/datasets/voc12_aug.py',
    '../_base_/schedules/poly_30k.py', '../_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=21))
# Ours: the paper sweeps one rate over 0.3, 0.1, ..., 1e-4 and does not say which one won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.01))
