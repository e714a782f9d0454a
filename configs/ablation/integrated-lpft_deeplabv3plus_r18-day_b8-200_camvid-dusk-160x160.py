# Ablation from CamVid's day to its dusk: integrated LP-FT, that is DAFT without the conversion: two rates alone.
#   mmseg-daft train configs/ablation/integrated-lpft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py
_base_ = '../ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr=0.03, head_lr=0.3))
