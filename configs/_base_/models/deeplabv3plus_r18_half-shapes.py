# The demo's DeepLabv3+ with the backbone of its source model (configs/source).
_base_ = './deeplabv3plus_r18_half.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/source_deeplabv3plus_r18_b8-700_shapes-source-96x96/iter_700.pth',
            prefix='backbone')))
