# FT on scikit-learn's digits from EfficientNet-Lite0.
#   mmseg-daft train configs/classification/ft_linear_efficientnet-lite0_b64-5e_digits-64x64.py
_base_ = [
    '../_base_/models/classifier_efficientnet-lite0.py', '../_base_/datasets/digits.py',
    '../_base_/schedules/cosine_5e.py', '../_base_/classification_runtime.py']
model = dict(head=dict(num_classes=10))
# Chosen on the validation images: docs/classification.md.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.03))
