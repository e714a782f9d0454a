# Output stride 8: dilation in stages 3 and 4, ASPP rates doubled.
_base_ = './deeplabv3plus_r50-moco.py'
model = dict(
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(dilations=(1, 12, 24, 36)))
