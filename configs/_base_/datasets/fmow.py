# fMoW of WILDS: the Americas, and as further domains Europe and Africa, in the same years and in later ones: the authors'
# code tests both and does not say which one is Table 2's. From the paper: flips alone; images have 224x224.
_base_ = './classification.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), interpolation='bicubic'),
    dict(type='PackInputs')]
train_dataloader = dict(
    dataset=dict(
        type='FMoWDataset', data_root='data/fmow_v1.1', regions=['Americas'], split='train', pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type='FMoWDataset', data_root='data/fmow_v1.1', regions=['Americas'], split='id_val', pipeline=test_pipeline))
test_dataloader = val_dataloader
test_cfg = dict(
    type='DomainsTestLoop',
    domains={
        name: dict(type='FMoWDataset', data_root='data/fmow_v1.1', regions=['Europe', 'Africa'], split=split,
                   pipeline=test_pipeline)
        for name, split in (('europe_africa', 'id_val'), ('europe_africa_2013', 'val'))})
