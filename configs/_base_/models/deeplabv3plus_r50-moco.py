# From MoCo-v2, 800 epochs (github.com/facebookresearch/moco): the paper's start for segmentation.
_base_ = './deeplabv3plus_r50.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/moco/moco_checkpoints/'
            'moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar',
            prefix='module.encoder_q')))
