# FT from ImageNet to the demo's shapes in daylight; `make demo` runs it.
# By hand: render the data (python -m demo.render work_dirs/demo/data), then
#   mmseg-daft train configs/ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_shapes-day-96x96.py
_base_ = [
    '../_base_/models/deeplabv3plus_efficientnet-lite0.py', '../_base_/datasets/shapes_day.py',
    '../_base_/schedules/poly_200.py', '../_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=6))
# The best of a sweep on other images (docs/demo.md), as are the rates of the other methods.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
