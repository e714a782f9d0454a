# FT on Entity-30 from MoCo-v2; paper: 93.39 / 62.48.
#   mmseg-daft train configs/classification/ft_linear_r50-moco_b64-20e_entity30-224x224.py
_base_ = [
    '../_base_/models/classifier_r50-moco.py', '../_base_/datasets/entity30.py',
    '../_base_/schedules/cosine_20e.py', '../_base_/classification_runtime.py']
model = dict(head=dict(num_classes=30))
# Ours: the paper sweeps one rate over 0.3, 0.1, ..., 1e-4 and does not say which one won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.01, head_lr=0.01))
