# From the paper: SGD, batch 64, a cosine over 20 epochs, the epoch that is best on the ID validation images.
# From the authors' code: momentum 0.9, no weight decay, the rate changes once an epoch.
max_epochs = 20
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', momentum=0.9),
    constructor='DAFTOptimWrapperConstructor')
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=0, begin=0, end=max_epochs, by_epoch=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    pretrained=dict(type='PretrainedWeightsHook'),
    batch=dict(type='EffectiveBatchHook', images=64),
    evaluation=dict(type='FinalEvaluationHook'),
    divergence=dict(type='DivergenceHook'),
    on_signal=dict(type='CheckpointOnSignalHook'))
