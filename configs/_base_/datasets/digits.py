# scikit-learn's handwritten digits, and as further domains digits in typefaces and noisy ones: docs/write_digits.py.
# An own test set, as the validation images choose rates and the probe's strength.
_base_ = './classification.py'
data = dict(type='CustomDataset', data_root='data/digits')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.7, 1.0)),
    dict(type='PackInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackInputs')]
train_dataloader = dict(num_workers=2, dataset=dict(**data, data_prefix='train', pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, dataset=dict(**data, data_prefix='val', pipeline=test_pipeline))
test_dataloader = dict(num_workers=2, dataset=dict(**data, data_prefix='test', pipeline=test_pipeline))
test_cfg = dict(
    type='DomainsTestLoop',
    domains={name: dict(**data, data_prefix=name, pipeline=test_pipeline) for name in ('rendered', 'noisy')})
