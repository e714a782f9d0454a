# The demo's unseen domains: night, and the validation images of the day with four corruptions of its own.
root = '{{$SHAPES_ROOT:work_dirs/demo/data}}'
night = dict(
    type='ShapesDataset',
    data_root=root + '/night',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    ann_file='ImageSets/Segmentation/val.txt')
sets = dict(night=night, corrupted_day=dict(night, data_root=root + '/corrupted'))
