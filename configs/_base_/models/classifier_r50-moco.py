# From MoCo-v2, 800 epochs (github.com/facebookresearch/moco).
_base_ = './classifier_r50.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/moco/moco_checkpoints/'
            'moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar',
            prefix='module.encoder_q')))
