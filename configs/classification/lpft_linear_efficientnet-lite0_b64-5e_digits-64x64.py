# LP-FT on scikit-learn's digits from EfficientNet-Lite0: from the head of LP, all batch norm in eval mode.
#   mmseg-daft probe configs/classification/lp_linear_efficientnet-lite0_b64-5e_digits-64x64.py
#   mmseg-daft train configs/classification/lpft_linear_efficientnet-lite0_b64-5e_digits-64x64.py
_base_ = './ft_linear_efficientnet-lite0_b64-5e_digits-64x64.py'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/lp_linear_efficientnet-lite0_b64-5e_digits-64x64/probe.pth'),
    backbone=dict(init_cfg=None))
custom_hooks = [dict(type='BNTestModeHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=3e-4, head_lr=3e-4))
