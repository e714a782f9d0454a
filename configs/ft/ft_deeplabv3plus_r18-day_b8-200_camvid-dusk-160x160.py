# FT from CamVid's day to its dusk; first train the source model (configs/source).
#   CAMVID_ROOT=/path/to/camvid python tools/train.py configs/ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = [
    '../_base_/models/deeplabv3plus_r18.py', '../_base_/datasets/camvid_dusk.py',
    '../_base_/schedules/poly_30k.py', '../_base_/default_runtime.py']
max_iters = 200
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/source_deeplabv3plus_r18_b8-1500_camvid-day-160x160/iter_1500.pth',
            prefix='backbone')),
    decode_head=dict(num_classes=11))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
