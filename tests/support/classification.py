"""The paper's classification tasks as tiny data in their real layouts; our configs of them with sizes turned down."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmseg_daft.models.efficientnet_lite import SCHEME
from support.pretrained_files import trained_state, write_clip, write_moco, write_swav
from support.small_runs import CONFIGS

DAFT_CIFAR = 'classification/daft_linear_r50-moco_b64-20e_cifar10-224x224.py'
_SIZES = {64: 32, 224: 32, 256: 36}


def _images(rng: np.random.Generator, labels: np.ndarray, size: int) -> np.ndarray:
    """Noise around a gray that tells the label, (N, size, size, 3)."""
    gray = 40 + 15 * (labels % 12)
    noise = rng.integers(-30, 30, (len(labels), size, size, 3))
    return (gray[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)


def _write(path: Path, rng: np.random.Generator, label: int, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), _images(rng, np.array([label]), size)[0])


def write_cifar10(root: Path, train: int = 20, test: int = 8) -> None:
    """Write CIFAR-10, CIFAR-10.1, STL-10 and CIFAR-10-C."""
    rng, folder = np.random.default_rng(0), root / 'cifar10' / 'cifar-10-batches-py'
    folder.mkdir(parents=True)
    for name, number in (*((f'data_batch_{i}', train // 5) for i in range(1, 6)), ('test_batch', test)):
        labels = rng.integers(0, 10, number)
        data = _images(rng, labels, 32).transpose(0, 3, 1, 2).reshape(number, -1)
        (folder / name).write_bytes(pickle.dumps(dict(data=data, labels=labels.tolist())))
    labels_of_test = labels
    (root / 'cifar10.1').mkdir()
    labels = rng.integers(0, 10, test).astype(np.int32)
    np.save(root / 'cifar10.1' / 'cifar10.1_v6_data.npy', _images(rng, labels, 32))
    np.save(root / 'cifar10.1' / 'cifar10.1_v6_labels.npy', labels)
    (root / 'stl10_binary').mkdir()
    labels = np.arange(1, 11, dtype=np.uint8)
    _images(rng, labels, 96).transpose(0, 3, 2, 1).tofile(root / 'stl10_binary' / 'test_X.bin')
    labels.tofile(root / 'stl10_binary' / 'test_y.bin')
    (root / 'CIFAR-10-C').mkdir()
    labels = np.tile(labels_of_test, 5).astype(np.uint8)
    np.save(root / 'CIFAR-10-C' / 'labels.npy', labels)
    for name in Config.fromfile(CONFIGS / '_base_/datasets/cifar10.py').test_cfg.domains.cifar10_c.datasets:
        np.save(root / 'CIFAR-10-C' / f'{name.corruption}.npy', _images(rng, labels, 32))


def write_breeds(root: Path) -> None:
    """Write an ImageNet of 240 classes and a hierarchy over them, of which both tasks can be made."""
    rng, edges, leaves = np.random.default_rng(0), [('n00001740', 'n00004258'), ('n00004258', 'middle')], []
    for i in range(30):
        edges += [('middle', f'upper{i}'), (f'upper{i}', f'entity{i:02}')]
        for j in range(8):
            leaves.append(f'n{1000 + 10 * i + j:08}')
            inner = i < 17 and j < 4  # a class of Living-17, one deeper
            edges.append((f'living{i:02}' if inner else f'entity{i:02}', leaves[-1]))
        if i < 17:
            edges.append((f'entity{i:02}', f'living{i:02}'))
    folder = root / 'BREEDS-Benchmarks' / 'imagenet_class_hierarchy' / 'modified'
    folder.mkdir(parents=True)
    (folder / 'class_hierarchy.txt').write_text('\n'.join(f'{parent} {child}' for parent, child in edges))
    nodes = {child for _, child in edges}
    (folder / 'node_names.txt').write_text('\n'.join(f'{node}\tname of {node}' for node in sorted(nodes)))
    (folder / 'dataset_class_info.json').write_text(json.dumps([[i, leaf, leaf] for i, leaf in enumerate(leaves)]))
    for split in ('train', 'val'):
        for i, leaf in enumerate(leaves):
            _write(root / 'imagenet' / split / leaf / f'{leaf}_1.JPEG', rng, i)


def write_domainnet(root: Path) -> None:
    """Write SENTRY's lists of the 40 classes, and their images."""
    rng = np.random.default_rng(0)
    classes = Config.fromfile(CONFIGS / '_base_/datasets/domainnet.py').data.classes
    (root / 'domainnet' / 'txt').mkdir(parents=True)
    for domain, split in (('sketch', 'train'), ('sketch', 'test'), ('real', 'test'), ('clipart', 'test'),
                          ('painting', 'test')):
        lines = [f'{domain}/{name}/{domain}_{split}_{i:06}.jpg {i}' for i, name in enumerate(classes)]
        (root / 'domainnet' / 'txt' / f'{domain}_{split}_mini.txt').write_text('\n'.join(lines) + '\n')
        for i, line in enumerate(lines):
            _write(root / 'domainnet' / line.split()[0], rng, i)


FMOW_ROWS = [  # split, country, time
    ('train', 'USA', '2012-12-31T23:59:59Z'), ('train', 'FRA', '2010-01-01T00:00:00Z'),
    ('train', 'BRA', '2013-01-01T00:00:00Z'), ('val', 'USA', '2009-06-01T00:00:00Z'),
    ('val', 'FRA', '2009-06-01T00:00:00Z'), ('val', 'KEN', '2014-06-01T00:00:00Z'),
    ('val', 'KEN', '2016-01-01T00:00:00Z'), ('seq', 'USA', '2009-06-01T00:00:00Z')]
"""What each of the 62 categories has one image of."""


def write_fmow(root: Path) -> None:
    """Write WILDS' tables and images."""
    rng, folder = np.random.default_rng(0), root / 'fmow_v1.1'
    folder.mkdir()
    with open(folder / 'country_code_mapping.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('name', 'alpha-3', 'region'), ('United States', 'USA', 'Americas'), (
            'Brazil', 'BRA', 'Americas'), ('France', 'FRA', 'Europe'), ('Kenya', 'KEN', 'Africa')])
    rows = [(split, country, time, f'category_{i:02}') for split, country, time in FMOW_ROWS for i in range(62)]
    with open(folder / 'rgb_metadata.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('split', 'country_code', 'timestamp', 'category'), *rows])
    for number in range(len(rows)):
        _write(folder / 'images' / f'rgb_img_{number}.png', rng, number % 62, size=32)


def small_classifier(config: str, work_dir: Path, data: Path, epochs: int = 1, **options: Any) -> Config:
    """Read one of our configs and turn its sizes down: 8 images, batches of 4, 32x32, a slim backbone."""
    cfg = Config.fromfile(CONFIGS / config)
    cfg.work_dir = str(work_dir)
    cfg.visualizer.name = cfg.experiment_name = f'{Path(config).stem}_{work_dir}'.replace('/', '_')
    cfg.randomness = dict(seed=0, deterministic=True)
    cfg.env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend='gloo'))
    _turn_down(cfg._cfg_dict, data)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
    cfg.train_dataloader.dataset.indices, cfg.default_hooks.batch.images = 8, 4
    if cfg.model.backbone.type == 'ResNet':
        cfg.model.backbone.update(base_channels=4, stem_channels=4)
        cfg.model.head.update(in_channels=128)
    elif cfg.model.backbone.type == 'mmseg.CLIPResNet':
        cfg.model.backbone.update(base_channels=4)
        cfg.model.neck.update(in_channels=128, out_channels=16, size=1, num_heads=4)
        cfg.model.head.update(in_channels=16)
    cfg.train_cfg.max_epochs = cfg.param_scheduler[0]['T_max'] = cfg.param_scheduler[0]['end'] = epochs
    cfg.default_hooks.logger.interval = 1
    cfg.merge_from_dict(options)
    return cfg


def _turn_down(value: Any, data: Path) -> None:
    """Shrink images, and point paths to the data, anywhere in a config."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if key in ('scale', 'crop_size'):
            value[key] = _SIZES[item] if isinstance(item, int) else tuple(_SIZES[side] for side in item)
        elif key in ('data_root', 'hierarchy'):
            value[key] = str(data / item.removeprefix('data/'))
        elif isinstance(item, (dict, list)):
            _turn_down(item, data)


def write_classifier_start(cfg: Config, folder: Path) -> None:
    """Write the file that a config starts from, in its real layout, and point the config to it."""
    init_default_scope('mmpretrain')
    if start := cfg.model.get('init_cfg'):
        start.checkpoint = str(folder / 'probe.pth')
        torch.save({'state_dict': trained_state(dict(cfg.model, init_cfg=None))}, start.checkpoint)
        return
    start = cfg.model.backbone.init_cfg
    if start.checkpoint.startswith(SCHEME):
        return  # the real one is installed
    write = {'module.encoder_q': write_moco, 'module': write_swav, 'visual': write_clip}[start.prefix]
    start.checkpoint = ('torchscript://' if write is write_clip else '') + str(write(folder / 'start.pth', cfg.model))
    if write is write_clip:
        cfg.model.neck.init_cfg.checkpoint = start.checkpoint
