# FT from ImageNet to CamVid's day.
#   mmseg-daft train configs/ft/ft_deeplabv3plus_efficientnet-lite0_b8-200_camvid-96x96.py
_base_ = [
    '../_base_/models/deeplabv3plus_efficientnet-lite0.py', '../_base_/datasets/camvid_day_180x135.py',
    '../_base_/schedules/poly_200.py', '../_base_/default_runtime.py']
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), decode_head=dict(num_classes=11))
# Rates are of a small sweep on held-out training images, as are those of the other methods: configs/README.md.
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.1, head_lr=0.1))
