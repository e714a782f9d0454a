"""Render the demo's data: scenes of textured shapes, in the layout of Pascal VOC, in three folders.

``day`` is the target domain: bright, even, neutral, sharp. ``night`` is the same kind of scene, dark and unevenly lit,
with a color cast, blur and sensor noise. ``corrupted`` holds the validation images of the day four times: with noise,
blurred, underexposed, with low contrast. Only its form tells a shape's class: all classes draw their colors and
textures from one distribution.

    python -m demo.render work_dirs/demo/data --seed 0
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
CLASSES = ('ground', 'disc', 'square', 'triangle', 'ring', 'cross')
DOMAINS = ('day', 'night')
CORRUPTIONS = ('noise', 'blur', 'dark', 'contrast')
GROUND_TONES = (0.1, 0.45)
SHAPE_TONES = (0.45, 1.0)


@dataclass(frozen=True)
class RenderSettings:
    """All that a rendered data set depends on: seed, height and width of the images, how many images there are."""

    seed: int = 0
    size: int = 128
    day_train: int = 300
    day_val: int = 64
    night_train: int = 48
    night_val: int = 64


def render_data_set(out: Path, settings: RenderSettings) -> bool:
    """Write all data into a folder, unless they are there already; return whether anything was written."""
    record = out / 'rendered.json'
    if record.is_file() and json.loads(record.read_text(encoding='utf-8')) == asdict(settings):
        return False
    record.unlink(missing_ok=True)
    for d, domain in enumerate(DOMAINS):
        for s, split in enumerate(('train', 'val')):
            scenes = {}
            for i in range(getattr(settings, f'{domain}_{split}')):
                rng = np.random.default_rng([settings.seed, d, s, i])
                reflectances, labels = render_scene(rng, settings.size)
                scenes[f'{split}_{i:04d}'] = photograph(reflectances, domain, rng), labels
            _write(out / domain, split, scenes)
            if (domain, split) == ('day', 'val'):
                _write(out / 'corrupted', split, {
                    f'{name}_{kind}': (corrupt(image, kind, np.random.default_rng([settings.seed, i])), labels)
                    for i, (name, (image, labels)) in enumerate(scenes.items()) for kind in CORRUPTIONS})
    record.write_text(json.dumps(asdict(settings)), encoding='utf-8')  # last: the rest is complete
    return True


def _write(root: Path, split: str, scenes: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    """Write a split of images and labels, and its list."""
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, (image, labels) in scenes.items():
        cv2.imwrite(str(root / 'JPEGImages' / f'{name}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        cv2.imwrite(str(root / 'SegmentationClass' / f'{name}.png'), labels)
    (root / 'ImageSets' / 'Segmentation' / f'{split}.txt').write_text(''.join(f'{name}\n' for name in scenes))


def render_scene(rng: np.random.Generator, size: int) -> tuple[Array, NDArray[np.uint8]]:
    """Draw a scene: reflectances ``(H, W, 3)`` in [0, 1] and class ids ``(H, W)``."""
    image = _textured(rng, size, GROUND_TONES)
    labels = np.zeros((size, size), np.uint8)
    owners = np.zeros((size, size), np.int32)
    areas: list[int] = []
    wanted = int(rng.integers(3, 7))
    for _ in range(5 * wanted):
        label = int(rng.integers(1, len(CLASSES)))
        mask = _shape_mask(rng, size, label)
        hidden = np.bincount(owners[mask > 0], minlength=len(areas) + 1)[1:]
        left = np.bincount(owners.ravel(), minlength=len(areas) + 1)[1:] - hidden
        if any(now < 0.6 * area for now, area in zip(left, areas, strict=True)):
            continue  # shapes may overlap, but each must stay recognizable
        areas.append(int((mask > 0).sum()))
        owners[mask > 0] = len(areas)
        labels[mask > 0] = label
        alpha = cv2.GaussianBlur(mask, (0, 0), 0.5)[..., None]
        image = (1 - alpha) * image + alpha * _textured(rng, size, SHAPE_TONES)
        if len(areas) == wanted:
            break
    return image, labels


def photograph(image: Array, domain: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a scene as the domain's camera sees it, ``(H, W, 3)`` uint8 in BGR."""
    size = image.shape[0]
    ys, xs = np.mgrid[-1:1:size * 1j, -1:1:size * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * xs + np.sin(angle) * ys
    if domain == 'day':
        light = rng.uniform(0.85, 1.0) * (1 + 0.05 * slope)
        cast, blur, noise = rng.uniform(0.95, 1.05, 3), 0.3, 0.01
    else:
        lamp = rng.uniform(-0.7, 0.7, 2)
        pool = np.exp(-((xs - lamp[0]) ** 2 + (ys - lamp[1]) ** 2) / 0.9)
        light = rng.uniform(0.35, 0.5) * (1 + 0.3 * slope) + 0.25 * pool
        cast, blur, noise = np.array([0.7, 0.9, 1.05]) * rng.uniform(0.9, 1.1, 3), rng.uniform(0.5, 0.9), 0.02
    lit = image * light[..., None] * cast.astype(np.float32)
    lit = cv2.GaussianBlur(lit.astype(np.float32), (0, 0), blur)
    shot = np.sqrt(np.clip(lit, 0, 1)) * rng.normal(0, noise, lit.shape)
    seen = lit + shot + rng.normal(0, noise / 2, lit.shape)
    return np.clip(255 * seen, 0, 255).astype(np.uint8)


def corrupt(image: NDArray[np.uint8], kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image ``(H, W, 3)`` with one of ``CORRUPTIONS``."""
    pixels = image.astype(np.float32)
    if kind == 'noise':
        pixels += rng.normal(0, 25, pixels.shape)
    elif kind == 'blur':
        pixels = cv2.GaussianBlur(pixels, (0, 0), 1.5)
    elif kind == 'dark':
        pixels *= 0.4
    else:
        pixels = 0.4 * pixels + 0.6 * pixels.mean()
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _shape_mask(rng: np.random.Generator, size: int, label: int) -> Array:
    """Draw a shape of a class at a random place, size and rotation: ``(H, W)`` of 0 and 1."""
    mask = np.zeros((size, size), np.float32)
    radius = rng.uniform(0.13, 0.24) * size
    center = rng.uniform(0.06 * size, 0.94 * size, 2)
    turn = rng.uniform(0, 2 * np.pi)
    name = CLASSES[label]
    if name in ('disc', 'ring'):
        middle = tuple(int(v) for v in center)
        cv2.circle(mask, middle, round(radius), 1.0, -1)
        if name == 'ring':
            cv2.circle(mask, middle, round(radius * rng.uniform(0.45, 0.6)), 0.0, -1)
        return mask
    if name == 'cross':
        arm = rng.uniform(0.25, 0.35)
        corner = np.array([[arm, 1], [arm, arm], [1, arm]])
        quarter = np.array([[0, -1], [1, 0]])
        points = np.concatenate([corner @ np.linalg.matrix_power(quarter, k) for k in range(4)])
    else:
        sides = {'square': 4, 'triangle': 3}[name]
        angles = 2 * np.pi * np.arange(sides) / sides
        points = 1.15 * np.stack([np.cos(angles), np.sin(angles)], 1)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = center + radius * points @ rotation.T
    cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1.0)
    return mask


def _textured(rng: np.random.Generator, size: int, tones: tuple[float, float]) -> Array:
    """Draw a texture over the whole image: stripes or blotches between a color of these tones and one near it."""
    first = rng.uniform(*tones, 3)
    second = np.clip(first + rng.normal(0, 0.1, 3), 0.05, 1)
    if rng.random() < 0.5:
        ys, xs = np.mgrid[:size, :size]
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 16)
        wave = np.sin(2 * np.pi * (np.cos(angle) * xs + np.sin(angle) * ys) / period + rng.uniform(0, 6))
        mix = 0.5 + 0.5 * wave
    else:
        cells = int(rng.integers(6, 28))
        mix = cv2.resize(rng.random((cells, cells)), (size, size), interpolation=cv2.INTER_CUBIC)
    mix = np.clip(mix + rng.normal(0, 0.08, (size, size)), 0, 1)[..., None].astype(np.float32)
    return (mix * first + (1 - mix) * second).astype(np.float32)


def main() -> None:
    """Render from the command line."""
    parser = argparse.ArgumentParser(
        'python -m demo.render', description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out', type=Path, help='the folder for day/, night/ and corrupted/')
    for name, value in asdict(RenderSettings()).items():
        parser.add_argument(f'--{name.replace("_", "-")}', type=int, default=value, help=name.replace('_', ' '))
    options = vars(parser.parse_args())
    out: Path = options.pop('out')
    written = render_data_set(out, RenderSettings(**options))
    print(f'{out}: {"rendered" if written else "already complete, left as it is"}')


if __name__ == '__main__':
    main()
