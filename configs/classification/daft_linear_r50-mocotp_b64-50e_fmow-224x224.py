# DAFT on fMoW from MoCo-TP; paper: 61.91 / 43.29.
#   mmseg-daft train configs/classification/daft_linear_r50-mocotp_b64-50e_fmow-224x224.py
_base_ = './ft_linear_r50-mocotp_b64-50e_fmow-224x224.py'
model = dict(head=dict(init_cfg=dict(type='ZeroHead')))
custom_hooks = [dict(type='BNConversionHook')]
# Ours: the paper sweeps backbone_lr, then head_lr, and does not say which ones won.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=1e-3, head_lr=1.0))
