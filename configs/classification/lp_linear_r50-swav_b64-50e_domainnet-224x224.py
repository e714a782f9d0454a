# LP on DomainNet from SwAV; paper: 75.13 / 59.71: logistic regression on the features.
#   mmseg-daft probe configs/classification/lp_linear_r50-swav_b64-50e_domainnet-224x224.py
# Or by SGD on the head, with the rate below, which is ours:
#   mmseg-daft train configs/classification/lp_linear_r50-swav_b64-50e_domainnet-224x224.py
_base_ = './ft_linear_r50-swav_b64-50e_domainnet-224x224.py'
model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0, head_lr=0.1))
