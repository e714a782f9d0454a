# The source model of the demo: trained from scratch on the shapes' source domain. `make demo` runs it.
#   python tools/train.py configs/source/source_deeplabv3plus_r18_b8-700_shapes-source-96x96.py
_base_ = [
    '../_base_/models/deeplabv3plus_r18_half.py', '../_base_/datasets/shapes_source.py',
    '../_base_/schedules/poly_30k.py', '../_base_/default_runtime.py']
max_iters = 700
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=6))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=max_iters))
