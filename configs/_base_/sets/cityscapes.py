# Test sets for runs trained on Cityscapes, each the labeled validation part, in mmseg's or the authors' layout.
# Take those that you have: mmseg-daft evaluate … --sets cityscapes acdc_fog dark_zurich
# A class keeps its name; label_map renames, merges, or ignores (None). '*' is every class that is not named.
acdc_root = '{{$ACDC_ROOT:data/acdc}}'
cityscapes_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
idd_root = '{{$IDD_ROOT:data/idd}}'
# ACDC (Sakaridis et al., ICCV 2021): 100 to 106 images per condition.
acdc_fog = dict(
    type='CityscapesDataset',
    data_root=acdc_root,
    data_prefix=dict(img_path='rgb_anon/fog/val', seg_map_path='gt/fog/val'),
    img_suffix='_rgb_anon.png',
    seg_map_suffix='_gt_labelTrainIds.png')
acdc_night = dict(acdc_fog, data_prefix=dict(img_path='rgb_anon/night/val', seg_map_path='gt/night/val'))
acdc_rain = dict(acdc_fog, data_prefix=dict(img_path='rgb_anon/rain/val', seg_map_path='gt/rain/val'))
acdc_snow = dict(acdc_fog, data_prefix=dict(img_path='rgb_anon/snow/val', seg_map_path='gt/snow/val'))
sets = dict(
    acdc_fog=acdc_fog,
    acdc_night=acdc_night,
    acdc_rain=acdc_rain,
    acdc_snow=acdc_snow,
    acdc=dict(type='ConcatDataset', datasets=[acdc_fog, acdc_night, acdc_rain, acdc_snow]),
    # Dark Zurich (Sakaridis et al., ICCV 2019): 50 images.
    dark_zurich=dict(
        type='DarkZurichDataset',
        data_root='{{$DARK_ZURICH_ROOT:data/dark_zurich}}',
        data_prefix=dict(img_path='rgb_anon/val/night', seg_map_path='gt/val/night')),
    # Nighttime Driving (Dai, Van Gool, ITSC 2018): 50 images with coarse labels.
    night_driving=dict(
        type='NightDrivingDataset',
        data_root='{{$NIGHT_DRIVING_ROOT:data/NighttimeDrivingTest}}',
        data_prefix=dict(img_path='leftImg8bit/test/night', seg_map_path='gtCoarse_daytime_trainvaltest/test/night')),
    # BDD100K (Yu et al., CVPR 2020): 1,000 images.
    bdd100k=dict(
        type='BDD100KDataset',
        data_root='{{$BDD100K_ROOT:data/bdd100k}}',
        data_prefix=dict(img_path='images/10k/val', seg_map_path='labels/sem_seg/masks/val')),
    # Foggy Cityscapes (Sakaridis et al., IJCV 2018): the 500 images in the densest fog; others: beta_0.01, beta_0.005.
    foggy_cityscapes=dict(
        type='CityscapesDataset',
        data_root=cityscapes_root,
        data_prefix=dict(img_path='leftImg8bit_foggy/val', seg_map_path='gtFine/val'),
        img_suffix='_leftImg8bit_foggy_beta_0.02.png'),
    # IDD (Varma et al., WACV 2019): 981 images of part I; those of part II end in .jpg. Its authors' own labels in
    # Cityscapes' classes, written by their createLabels.py --id-type csTrainId.
    idd=dict(
        type='CityscapesDataset',
        data_root=idd_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        seg_map_suffix='_gtFine_labelcsTrainIds.png'),
    # The same images with IDD's 26 classes (--id-type level3Id): without terrain and train.
    idd_level3=dict(
        type='IDDDataset',
        data_root=idd_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        label_map={'*': None}),
    # Mapillary Vistas 1.2 (Neuhold et al., ICCV 2017): 2,000 images. The map is RobustNet's (Choi et al., CVPR 2021).
    mapillary=dict(
        type='MapillaryDataset_v1',
        data_root='{{$MAPILLARY_ROOT:data/mapillary}}',
        data_prefix=dict(img_path='validation/images', seg_map_path='validation/v1.2/labels'),
        label_map={
            'Road': 'road', 'Lane Marking - General': 'road', 'Manhole': 'road',
            'Sidewalk': 'sidewalk', 'Curb': 'sidewalk',
            'Building': 'building', 'Wall': 'wall', 'Fence': 'fence',
            'Pole': 'pole', 'Utility Pole': 'pole',
            'Traffic Light': 'traffic light', 'Traffic Sign (Front)': 'traffic sign',
            'Vegetation': 'vegetation', 'Terrain': 'terrain', 'Sky': 'sky', 'Person': 'person',
            'Bicyclist': 'rider', 'Motorcyclist': 'rider', 'Other Rider': 'rider',
            'Car': 'car', 'Truck': 'truck', 'Bus': 'bus', 'On Rails': 'train',
            'Motorcycle': 'motorcycle', 'Bicycle': 'bicycle',
            '*': None}))
