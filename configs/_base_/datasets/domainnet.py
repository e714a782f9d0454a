# DomainNet's 40 classes: Sketch, and as further domains Real, Clipart and Painting, together as in the paper's Table 2
# and each. From the paper: 256x256, a random crop of 224x224, flips. The lists are SENTRY's
# (github.com/virajprabhu/SENTRY, data/DomainNet/txt); the ID validation images are its list of Sketch's test images.
_base_ = './classification.py'
data = dict(
    type='CustomDataset', data_root='data/domainnet',
    classes=('airplane', 'ambulance', 'apple', 'backpack', 'banana', 'bathtub', 'bear', 'bed', 'bee', 'bicycle', 'bird',
             'book', 'bridge', 'bus', 'butterfly', 'cake', 'calculator', 'camera', 'car', 'cat', 'chair', 'clock', 'cow',
             'dog', 'dolphin', 'donut', 'drums', 'duck', 'elephant', 'fence', 'fork', 'horse', 'house', 'rabbit',
             'scissors', 'sheep', 'strawberry', 'table', 'telephone', 'truck'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), interpolation='bicubic', backend='pillow'),
    dict(type='RandomCrop', crop_size=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), interpolation='bicubic', backend='pillow'),
    dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(**data, ann_file='txt/sketch_train_mini.txt', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**data, ann_file='txt/sketch_test_mini.txt', pipeline=test_pipeline))
test_dataloader = val_dataloader
each = {name: dict(**data, ann_file=f'txt/{name}_test_mini.txt', pipeline=test_pipeline)
        for name in ('real', 'clipart', 'painting')}
test_cfg = dict(
    type='DomainsTestLoop', domains=dict(ood=dict(type='ConcatDataset', datasets=list(each.values())), **each))
