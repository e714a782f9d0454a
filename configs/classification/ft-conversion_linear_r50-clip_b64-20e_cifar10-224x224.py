# Ablation on CIFAR-10 from CLIP, FT and the conversion, at one rate; paper: 95.40 / 88.8, 81.47.
#   mmseg-daft train configs/classification/ft-conversion_linear_r50-clip_b64-20e_cifar10-224x224.py
_base_ = './ft_linear_r50-clip_b64-20e_cifar10-224x224.py'
custom_hooks = [dict(type='BNConversionHook')]
