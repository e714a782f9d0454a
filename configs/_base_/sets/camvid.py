# CamVid's two recordings as test sets: each is the unseen domain of runs that were trained on the other one.
root = '{{$CAMVID_ROOT:data/camvid}}'
day = dict(
    type='CamVidDataset',
    data_root=root + '/day',
    data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
    img_suffix='.jpg')
sets = dict(day=day, dusk=dict(day, data_root=root + '/dusk'))
