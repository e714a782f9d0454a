# DeepLabv3+ on a plain ResNet-50, output stride 16.
# From the paper: decoder and backbone. Ours, after the public PyTorch DeepLabv3+ recipe that its numbers fit
# (github.com/VainF/DeepLabV3Plus-Pytorch): output stride 16 (dilation in stage 4 alone), ASPP rates 6/12/18 of plain
# 3x3 convolutions, 256 and 48 channels, dropout 0.1, no auxiliary head, batch-norm momentum 0.01 in the backbone, loss
# averaged over the labeled pixels.
# SyncBN: a batch-norm batch is the whole batch of 16 on any number of GPUs; on one GPU or a CPU, mmengine
# turns it into plain batch norm.
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        contract_dilation=True,
        norm_cfg=dict(type='SyncBN', requires_grad=True, momentum=0.01),
        norm_eval=False,
        style='pytorch'),
    decode_head=dict(
        type='DeepLabV3PlusHead',
        in_channels=2048,
        in_index=3,
        channels=256,
        dilations=(1, 6, 12, 18),
        c1_in_channels=256,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
