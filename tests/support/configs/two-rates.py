_base_ = 'ft.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=1.0))
