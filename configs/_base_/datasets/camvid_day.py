# CamVid's day recordings (0006R0, 0016E5) as the source domain: 305 training and 101 validation images.
_base_ = './camvid_dusk.py'
data_root = '{{$CAMVID_ROOT:data/camvid}}/day'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
