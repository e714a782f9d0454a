_base_ = 'ft.py'
model = dict(init_cfg=dict(type='Pretrained', checkpoint='lp.pth'), backbone=dict(init_cfg=None))
custom_hooks = [dict(type='BNTestModeHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=1e-3, head_lr=1e-3))
