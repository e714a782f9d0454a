# Ablation on CIFAR-10 from SwAV, LP-FT and the conversion, batch norm in train mode; paper: 97.61 / 93.45, 89.35.
#   mmseg-daft probe configs/classification/lp_linear_r50-swav_b64-20e_cifar10-224x224.py
#   mmseg-daft train configs/classification/lpft-conversion_linear_r50-swav_b64-20e_cifar10-224x224.py
_base_ = './lpft_linear_r50-swav_b64-20e_cifar10-224x224.py'
custom_hooks = [dict(type='BNConversionHook')]
