# From CLIP's RN50 (github.com/openai/CLIP), the whole image network: its features come out of its attention pooling.
# The file is a TorchScript archive, of which only the tensors are read. The backbone is registered with mmseg.
_base_ = './classifier_r50.py'
start = dict(
    type='Pretrained',
    checkpoint='torchscript://https://openaipublic.azureedge.net/clip/models/'
    'afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt')
model = dict(
    data_preprocessor=dict(
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305]),
    backbone=dict(
        _delete_=True,
        type='mmseg.CLIPResNet',
        depth=50,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(prefix='visual', **start)),
    neck=dict(_delete_=True, type='CLIPAttentionPool', init_cfg=dict(prefix='visual.attnpool', **start)),
    head=dict(in_channels=1024))
