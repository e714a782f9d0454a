# The methods at a size for tests, on the demo's shapes.
_base_ = [
    'model.py', '../../../configs/_base_/datasets/shapes_day.py',
    '../../../configs/_base_/schedules/poly_200.py', '../../../configs/_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.3, head_lr=0.3))
