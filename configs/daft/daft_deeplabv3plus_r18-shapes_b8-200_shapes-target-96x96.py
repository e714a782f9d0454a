# DAFT from the shapes' source domain to their target domain; `make demo` runs it.
# By hand: render the data (python -m demo.render work_dirs/demo/data), train the source model (configs/source), then
#   mmseg-daft train configs/daft/daft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py
_base_ = '../ft/ft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py'
custom_hooks = [dict(type='BNConversionHook')]
# The best of (0.03, 1.0), (0.1, 0.3), (0.1, 1.0), (0.3, 0.3) and (0.3, 1.0), by the mIoU of seeds 0 and 1 from a source model of 1,000 iterations.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=1.0))
