# Entity-30 (BREEDS), as Living-17.
_base_ = './living17.py'
train_dataloader = dict(dataset=dict(name='entity30'))
val_dataloader = dict(dataset=dict(name='entity30'))
test_dataloader = val_dataloader
test_cfg = dict(domains=dict(target=dict(name='entity30')))
