# FT on Cityscapes from SwAV.
#   mmseg-daft train configs/ft/ft_deeplabv3plus_r50-swav_b16-30k_cityscapes-768x768.py
_base_ = [
    '../_base_/models/deeplabv3plus_r50-swav.py', '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/poly_30k.py', '../_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=19))
# Ours: the paper sweeps one rate over 0.3, 0.1, ..., 1e-4 and does not say which one won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
