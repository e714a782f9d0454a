# Ablation on CIFAR-10 from SwAV, FT and the conversion, at one rate; paper: 97.62 / 93.62, 89.00.
#   mmseg-daft train configs/classification/ft-conversion_linear_r50-swav_b64-20e_cifar10-224x224.py
_base_ = './ft_linear_r50-swav_b64-20e_cifar10-224x224.py'
custom_hooks = [dict(type='BNConversionHook')]
