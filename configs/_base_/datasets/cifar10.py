# CIFAR-10, and as further domains CIFAR-10.1, STL-10 without monkeys, and CIFAR-10-C. From the paper: 224x224, flips.
# As in the authors' code, the ID validation images are CIFAR-10's test images. Images are RGB already.
# mmseg-daft evaluate --corruptions all reads CIFAR-10-C, for Table 4; test does with test_cfg.only='[cifar10_c]'.
_base_ = './classification.py'
train_pipeline = [
    dict(type='Resize', scale=(224, 224)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')]
test_pipeline = [
    dict(type='Resize', scale=(224, 224)),
    dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(type='CIFAR10', data_root='data/cifar10', split='train', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='CIFAR10', data_root='data/cifar10', split='test', pipeline=test_pipeline))
test_dataloader = val_dataloader
test_cfg = dict(
    type='DomainsTestLoop',
    only=['cifar10_1', 'stl10'],
    domains=dict(
        cifar10_1=dict(
            type='CIFARArrays', data_root='data/cifar10.1', images='cifar10.1_v6_data.npy',
            labels='cifar10.1_v6_labels.npy', pipeline=test_pipeline),
        stl10=dict(type='STL10AsCIFAR', data_root='data/stl10_binary', pipeline=test_pipeline),
        cifar10_c=dict(
            type='ConcatDataset',
            datasets=[
                dict(type='CIFAR10C', data_root='data/CIFAR-10-C', corruption=name, pipeline=test_pipeline)
                for name in (
                    'gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur', 'glass_blur', 'motion_blur',
                    'zoom_blur', 'snow', 'frost', 'fog', 'brightness', 'contrast', 'elastic_transform', 'pixelate',
                    'jpeg_compression')])))
