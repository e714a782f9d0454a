# A head that is one linear layer (a 1x1 convolution), on the backbone trained on CamVid's day.
_base_ = './deeplabv3plus_r18-day.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=512,
        in_index=3,
        channels=512,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0,
        num_classes=11,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0)))
