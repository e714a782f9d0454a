# LP-FT on Cityscapes from MoCo-v2; paper: 66.41 mIoU: from the head of LP, all batch norm in eval mode, a small rate. Both stages:
#   mmseg-daft lpft configs/lp/lp_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py configs/lpft/lpft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py
# The second alone, once the first is done:
#   mmseg-daft train configs/lpft/lpft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py
_base_ = '../ft/ft_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768.py'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/lp_deeplabv3plus_r50-moco_b16-30k_cityscapes-768x768/iter_30000.pth'),
    backbone=dict(init_cfg=None))
custom_hooks = [dict(type='BNTestModeHook')]
# Ours: the paper does not say which rate won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=1e-4, head_lr=1e-4))
