# The demo's scenes of shapes in their source domain.
_base_ = './shapes_target.py'
data_root = '{{$SHAPES_ROOT:work_dirs/demo/data}}/source'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
