# DAFT on DomainNet from MoCo-v2; paper: 89.31 / 74.67.
#   mmseg-daft train configs/classification/daft_linear_r50-moco_b64-50e_domainnet-224x224.py
_base_ = './ft_linear_r50-moco_b64-50e_domainnet-224x224.py'
model = dict(head=dict(init_cfg=dict(type='ZeroHead')))
custom_hooks = [dict(type='BNConversionHook')]
# Ours: the paper sweeps backbone_lr, then head_lr, and does not say which ones won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=1e-4, head_lr=1.0))
