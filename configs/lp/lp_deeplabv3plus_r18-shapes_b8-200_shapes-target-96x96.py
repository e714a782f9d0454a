# LP from the shapes' source domain to their target domain: the backbone frozen and in eval mode, the head trained.
#   mmseg-daft train configs/lp/lp_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py
_base_ = '../ft/ft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'
model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
# Ours: not swept.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=1.0))
