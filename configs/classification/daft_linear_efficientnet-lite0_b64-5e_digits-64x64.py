# DAFT on scikit-learn's digits from EfficientNet-Lite0.
#   mmseg-daft train configs/classification/daft_linear_efficientnet-lite0_b64-5e_digits-64x64.py
_base_ = './ft_linear_efficientnet-lite0_b64-5e_digits-64x64.py'
model = dict(head=dict(init_cfg=dict(type='ZeroHead')))
custom_hooks = [dict(type='BNConversionHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.003, head_lr=0.1))
