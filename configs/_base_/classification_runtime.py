# MMPretrain's runner, for configs/classification.
custom_imports = dict(imports=['mmseg_daft', 'mmseg_daft.classification'])
default_scope = 'mmpretrain'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_level = 'INFO'
load_from = None
resume = False
