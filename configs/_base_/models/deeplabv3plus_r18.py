# A small DeepLabv3+ that a CPU trains in minutes: ResNet-18, a decoder of 64 channels, output stride 16. Its runs are a
# few hundred iterations, too few for running statistics of momentum 0.01.
_base_ = './deeplabv3plus_r50.py'
model = dict(
    backbone=dict(depth=18, norm_cfg=dict(momentum=0.1)),
    decode_head=dict(in_channels=512, channels=64, c1_in_channels=64, c1_channels=24))
