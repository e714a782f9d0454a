# DAFT on Entity-30 from MoCo-v2; paper: 94.54 / 65.11.
#   mmseg-daft train configs/classification/daft_linear_r50-moco_b64-20e_entity30-224x224.py
_base_ = './ft_linear_r50-moco_b64-20e_entity30-224x224.py'
model = dict(head=dict(init_cfg=dict(type='ZeroHead')))
custom_hooks = [dict(type='BNConversionHook')]
# Ours: the paper sweeps backbone_lr, then head_lr, and does not say which ones won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=3e-5, head_lr=1.0))
