# DAFT from ImageNet to the demo's shapes in daylight; `make demo` runs it.
# By hand: render the data (python -m demo.render work_dirs/demo/data), then
#   mmseg-daft train configs/daft/daft_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py
_base_ = '../ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py'
custom_hooks = [dict(type='BNConversionHook')]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.3))
