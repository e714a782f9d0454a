# LP on Cityscapes from MoCo-v2; paper: 65.69 mIoU: the backbone frozen and in eval mode, the head trained.
#   mmseg-daft train configs/lp/lp_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py'
model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
# Ours: the paper does not say which rate won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=0.1))
