# FT from CamVid's day to its dusk with a linear head; first train the source model (configs/source).
#   CAMVID_ROOT=/path/to/camvid mmseg-daft train configs/ft/ft_linear_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = [
    '../_base_/models/linear_r18-day.py', '../_base_/datasets/camvid_dusk.py',
    '../_base_/schedules/poly_200.py', '../_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=11))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
