# Living-17 (BREEDS): the source domain; as a further domain the target. From the paper: a random resized crop, flips.
_base_ = './classification.py'
data = dict(
    type='BREEDSDataset', data_root='data/imagenet', name='living17',
    hierarchy='data/BREEDS-Benchmarks/imagenet_class_hierarchy/modified')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(**data, domain='source', split='train', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**data, domain='source', split='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
test_cfg = dict(
    type='DomainsTestLoop',
    domains=dict(target=dict(**data, domain='target', split='val', pipeline=test_pipeline)))
