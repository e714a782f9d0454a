# FT on Living-17 from SwAV; paper: 97.61 / 80.65.
#   mmseg-daft train configs/classification/ft_linear_r50-swav_b64-20e_living17-224x224.py
_base_ = [
    '../_base_/models/classifier_r50-swav.py', '../_base_/datasets/living17.py',
    '../_base_/schedules/cosine_20e.py', '../_base_/classification_runtime.py']
model = dict(head=dict(num_classes=17))
# Ours: the paper sweeps one rate over 0.3, 0.1, ..., 1e-4 and does not say which one won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.01))
