# The small DeepLabv3+ with the backbone of the source model of CamVid's day (configs/source).
_base_ = './deeplabv3plus_r18.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/source_deeplabv3plus_r18_b8-1500_camvid-day-160x160/iter_1500.pth',
            prefix='backbone')))
