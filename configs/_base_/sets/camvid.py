# CamVid's recordings as test sets: each is an unseen domain of runs that were trained on another one. `day` is of 0006R0
# and 0016E5, `dusk` of 0001TP, and `other_place` of Seq05VD, also by day, put beside them in the same layout.
root = '{{$CAMVID_ROOT:data/camvid}}'
day = dict(
    type='CamVidDataset',
    data_root=root + '/day',
    data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
    img_suffix='.jpg')
sets = dict(
    day=day,
    dusk=dict(day, data_root=root + '/dusk'),
    other_place=dict(day, data_root=root + '/other_place'))
