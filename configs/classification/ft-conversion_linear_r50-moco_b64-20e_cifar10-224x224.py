# Ablation on CIFAR-10 from MoCo-v2, FT and the conversion, at one rate; paper: 97.59 / 93.27, 84.05.
#   mmseg-daft train configs/classification/ft-conversion_linear_r50-moco_b64-20e_cifar10-224x224.py
_base_ = './ft_linear_r50-moco_b64-20e_cifar10-224x224.py'
custom_hooks = [dict(type='BNConversionHook')]
