_base_ = 'ft.py'
model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=1.0))
