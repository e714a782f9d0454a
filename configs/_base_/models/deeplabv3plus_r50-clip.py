# From CLIP's RN50 (github.com/openai/CLIP): three-convolution stem, anti-aliased strides, no attention pooling.
# Its file is a TorchScript archive, of which only the tensors are read.
_base_ = './deeplabv3plus_r50.py'
model = dict(
    data_preprocessor=dict(
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305]),
    backbone=dict(
        _delete_=True,
        type='CLIPResNet',
        depth=50,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        norm_cfg=dict(type='SyncBN', requires_grad=True, momentum=0.01),
        norm_eval=False,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='torchscript://https://openaipublic.azureedge.net/clip/models/'
            'afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt',
            prefix='visual')))
