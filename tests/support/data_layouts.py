"""Write small data sets in the folder layouts of the real ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_pair(image_path: Path, label_path: Path, size: tuple[int, int], num_classes: int, seed: int) -> None:
    """Write an image with a few smooth blobs and its labels, some of them ignored."""
    rng = np.random.default_rng(seed)
    h, w = size
    labels = rng.integers(0, num_classes, (4, 5)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    labels = cv2.resize(labels, (w, h), interpolation=cv2.INTER_NEAREST)
    colors = np.random.default_rng(1).integers(40, 215, (256, 3))
    image = np.clip(colors[labels] + rng.normal(0, 15, (h, w, 3)), 0, 255).astype(np.uint8)
    for path, array in ((image_path, image), (label_path, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), array)


def write_voc(
    root: Path, train: int = 7, aug: int = 6, val: int = 2, size: tuple[int, int] = (60, 80), num_classes: int = 21,
) -> Path:
    """Write Pascal VOC 2012 with SegmentationClassAug, in mmseg's layout; return ``root``."""
    lists = root / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    for part, count, folder in (('train', train, ''), ('aug', aug, 'Aug'), ('val', val, '')):
        names = [f'2007_{part}{i:04d}' for i in range(count)]
        (lists / f'{part}.txt').write_text('\n'.join(names) + '\n')
        for i, name in enumerate(names):
            write_pair(root / 'JPEGImages' / f'{name}.jpg', root / f'SegmentationClass{folder}' / f'{name}.png',
                       size, num_classes, i + 100 * len(part))
    return root


def write_cityscapes(root: Path, train: int = 6, val: int = 2, size: tuple[int, int] = (64, 128)) -> Path:
    """Write Cityscapes in mmseg's layout, with labels as train ids; return ``root``."""
    for part, count in (('train', train), ('val', val)):
        for i in range(count):
            name = f'aachen_{i:06d}_000019'
            write_pair(root / 'leftImg8bit' / part / 'aachen' / f'{name}_leftImg8bit.png',
                       root / 'gtFine' / part / 'aachen' / f'{name}_gtFine_labelTrainIds.png',
                       size, 19, i + 100 * len(part))
    return root


def write_camvid(root: Path, train: int = 6, val: int = 2, size: tuple[int, int] = (48, 64)) -> Path:
    """Write CamVid's recordings, the one of another place for tests alone; return ``root``."""
    for domain in ('day', 'dusk', 'other_place'):
        for part, count in (('train', train if domain != 'other_place' else 0), ('val', val)):
            for i in range(count):
                write_pair(root / domain / 'images' / part / f'{i}.jpg', root / domain / 'labels' / part / f'{i}.png',
                           size, 11, i + 100 * len(part + domain))
    return root


def link_under_names(source, target, times):
    """Link the training images and labels of CamVid's layout, each under several names: under one it is read once."""
    for path in source.glob('*/train/*.*'):
        for number in range(times):
            link = target / path.relative_to(source).with_name(f'{path.stem}-{number}{path.suffix}')
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
