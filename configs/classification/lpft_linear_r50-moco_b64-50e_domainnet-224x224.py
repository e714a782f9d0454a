# LP-FT on DomainNet from MoCo-v2; paper: 85.56 / 70.89: from the head of LP, all batch norm in eval mode, a small rate.
#   mmseg-daft probe configs/classification/lp_linear_r50-moco_b64-50e_domainnet-224x224.py
#   mmseg-daft train configs/classification/lpft_linear_r50-moco_b64-50e_domainnet-224x224.py
_base_ = './ft_linear_r50-moco_b64-50e_domainnet-224x224.py'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/lp_linear_r50-moco_b64-50e_domainnet-224x224/probe.pth'),
    backbone=dict(init_cfg=None))
custom_hooks = [dict(type='BNTestModeHook')]
# Ours: the paper does not say which rate won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=1e-5, head_lr=1e-5))
