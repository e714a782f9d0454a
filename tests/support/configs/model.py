# A DeepLabv3+ that trains in a blink: half the channels of a ResNet-18, from a file that a test writes.
_base_ = '../../../configs/_base_/models/deeplabv3plus_r18.py'
model = dict(
    backbone=dict(
        stem_channels=32, base_channels=32,
        init_cfg=dict(type='Pretrained', checkpoint='start.pth', prefix='backbone')),
    decode_head=dict(in_channels=256, c1_in_channels=32, num_classes=6))
