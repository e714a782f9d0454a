# DAFT from the shapes' source domain to their target domain; `make demo` runs it after the source model.
#   python tools/train.py configs/daft/daft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py
_base_ = '../ft/ft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'
custom_hooks = [dict(type='BNConversionHook')]
# The best of (0.1, 0.3), (0.1, 1.0) and (0.3, 1.0).
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=1.0))
