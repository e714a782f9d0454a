# Ablation from the shapes' source domain to their target domain: integrated LP-FT, that is DAFT without the conversion: two rates alone.
#   mmseg-daft train configs/ablation/integrated-lpft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py
_base_ = '../ft/ft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=1.0))
