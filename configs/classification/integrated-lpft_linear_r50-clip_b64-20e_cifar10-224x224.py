# Ablation on CIFAR-10 from CLIP, two rates without the conversion, batch norm in eval mode; paper: 94.29 / 87.32, 73.12.
#   mmseg-daft train configs/classification/integrated-lpft_linear_r50-clip_b64-20e_cifar10-224x224.py
_base_ = './ft_linear_r50-clip_b64-20e_cifar10-224x224.py'
model = dict(head=dict(init_cfg=dict(type='ZeroHead')))
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
# Ours: the paper sweeps backbone_lr, then head_lr, and does not say which ones won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=1e-5, head_lr=1.0))
