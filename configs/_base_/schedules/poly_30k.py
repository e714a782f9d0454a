# From the paper: SGD, poly with power 0.9, 30,000 iterations, the final model is evaluated.
# Ours: momentum and weight decay, after the public PyTorch DeepLabv3+ recipe that the paper's numbers fit.
# The rates are meant for optimizer steps over 16 images: another number warns at the start.
# eta_min stays 0: it is absolute and shared, so it would lift a small backbone_lr.
max_iters = 30000
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', momentum=0.9, weight_decay=1e-4),
    constructor='DAFTOptimWrapperConstructor')
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters // 10, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    pretrained=dict(type='PretrainedWeightsHook'),
    batch=dict(type='EffectiveBatchHook', images=16),
    evaluation=dict(type='FinalEvaluationHook'),
    divergence=dict(type='DivergenceHook'),
    on_signal=dict(type='CheckpointOnSignalHook'))
