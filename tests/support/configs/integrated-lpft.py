_base_ = 'ft.py'
custom_hooks = [dict(type='BNTestModeHook', modules=('backbone',))]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=1.0))
