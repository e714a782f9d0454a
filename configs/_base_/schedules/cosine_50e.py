# As cosine_20e, over 50 epochs: the paper's for DomainNet and fMoW, which have fewer images.
_base_ = './cosine_20e.py'
max_epochs = 50
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=0, begin=0, end=max_epochs, by_epoch=True)]
train_cfg = dict(max_epochs=max_epochs)
