# The small DeepLabv3+ with half the channels in ResNet-18: four times fewer operations, for the demo.
_base_ = './deeplabv3plus_r18.py'
model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    decode_head=dict(in_channels=256, c1_in_channels=32))
