# 200 iterations of batch 8, for the small models.
_base_ = './poly_30k.py'
max_iters = 200
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_iters), batch=dict(images=8))
