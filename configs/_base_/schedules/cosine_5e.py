# As cosine_20e, over 5 epochs, the last one of which is taken: for tasks that train on a CPU.
_base_ = './cosine_20e.py'
max_epochs = 5
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=0, begin=0, end=max_epochs, by_epoch=True)]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(logger=dict(interval=8), checkpoint=dict(interval=max_epochs, save_best=None))
