# Test sets for runs trained on Pascal VOC: an example of a set with more classes, most of which are background here.
sets = dict(
    # COCO-Stuff (Caesar et al., CVPR 2018): 5,000 images, 171 classes, in mmseg's layout. Its tables are not all VOC's
    # dining tables and its trucks are partly VOC's cars, so neither counts.
    coco_stuff=dict(
        type='COCOStuffDataset',
        data_root='{{$COCO_STUFF_ROOT:data/coco_stuff164k}}',
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        label_map={
            'airplane': 'aeroplane', 'motorcycle': 'motorbike', 'dining table': 'diningtable',
            'potted plant': 'pottedplant', 'couch': 'sofa', 'tv': 'tvmonitor',
            'table': None, 'truck': None,
            '*': 'background'}))
