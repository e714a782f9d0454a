# The source model of the day-to-dusk task: trained from scratch on CamVid's day recordings.
#   CAMVID_ROOT=/path/to/camvid mmseg-daft train configs/source/source_deeplabv3plus_r18_b8-1500_camvid-day-160x160.py
_base_ = [
    '../_base_/models/deeplabv3plus_r18.py', '../_base_/datasets/camvid_day.py',
    '../_base_/schedules/poly_1500.py', '../_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=11))
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
