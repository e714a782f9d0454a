# From SwAV, 800 epochs (github.com/facebookresearch/swav).
_base_ = './classifier_r50.py'
model = dict(
    data_preprocessor=dict(std=[58.14, 57.12, 57.375]),  # its training's; the red one is 0.228 of 255
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar',
            prefix='module')))
