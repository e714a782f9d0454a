# LP on CIFAR-10 from MoCo-v2; paper: 91.78 / 82.53, 86.01: logistic regression on the features.
#   mmseg-daft probe configs/classification/lp_linear_r50-moco_b64-20e_cifar10-224x224.py
# Or by SGD on the head, with the rate below, which is ours:
#   mmseg-daft train configs/classification/lp_linear_r50-moco_b64-20e_cifar10-224x224.py
_base_ = './ft_linear_r50-moco_b64-20e_cifar10-224x224.py'
model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=0.1))
