# LP on scikit-learn's digits from EfficientNet-Lite0: logistic regression on the features.
#   mmseg-daft probe configs/classification/lp_linear_efficientnet-lite0_b64-5e_digits-64x64.py
# Or by SGD on the head:
#   mmseg-daft train configs/classification/lp_linear_efficientnet-lite0_b64-5e_digits-64x64.py
_base_ = './ft_linear_efficientnet-lite0_b64-5e_digits-64x64.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=0.1))
