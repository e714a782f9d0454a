# mmseg's own DeepLabv3+, as its deeplabv3plus_r50-d8.py has it: depthwise separable decoder of 512 channels, output
# stride 8, auxiliary head, batch-norm momentum 0.1; only the stem is the 7x7 one that MoCo's weights have, and the
# loss is averaged over the labeled pixels, as everywhere here.
_base_ = './deeplabv3plus_r50-d8-moco.py'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=dict(momentum=0.1)),
    decode_head=dict(type='DepthwiseSeparableASPPHead', channels=512),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=1024,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True, loss_weight=0.4)))
