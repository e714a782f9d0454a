# Ablation on CIFAR-10 from CLIP, LP-FT and the conversion, batch norm in train mode; paper: 94.70 / 88.50, 85.49.
#   mmseg-daft probe configs/classification/lp_linear_r50-clip_b64-20e_cifar10-224x224.py
#   mmseg-daft train configs/classification/lpft-conversion_linear_r50-clip_b64-20e_cifar10-224x224.py
_base_ = './lpft_linear_r50-clip_b64-20e_cifar10-224x224.py'
custom_hooks = [dict(type='BNConversionHook')]
