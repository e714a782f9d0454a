# From torchvision's supervised ImageNet classifier (weights IMAGENET1K_V1).
_base_ = './deeplabv3plus_r50.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth')))
