# The source model of the demo: trained from scratch on the shapes' source domain. `make demo` runs it.
#   mmseg-daft train configs/source/source_deeplabv3plus_r18_b8-700_shapes-source-96x96.py
_base_ = [
    '../_base_/models/deeplabv3plus_r18_half.py', '../_base_/datasets/shapes_source.py',
    '../_base_/schedules/poly_700.py', '../_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=6))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
