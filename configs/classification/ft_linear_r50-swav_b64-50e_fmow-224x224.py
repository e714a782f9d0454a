# FT on fMoW from SwAV; paper: 66.06 / 45.67.
#   mmseg-daft train configs/classification/ft_linear_r50-swav_b64-50e_fmow-224x224.py
_base_ = [
    '../_base_/models/classifier_r50-swav.py', '../_base_/datasets/fmow.py',
    '../_base_/schedules/cosine_50e.py', '../_base_/classification_runtime.py']
model = dict(head=dict(num_classes=62))
# Ours: the paper sweeps one rate over 0.3, 0.1, ..., 1e-4 and does not say which one won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.01))
