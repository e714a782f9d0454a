"""Write the two domains of ``docs/classification.md``: scikit-learn's handwritten digits, and digits in typefaces.

    python docs/write_digits.py data/digits

``train`` (512 images), ``val`` (256) and ``test`` (1,029) are disjoint parts of the handwritten digits; ``rendered``
has OpenCV's typefaces, moved, turned and sized at random; ``noisy`` is ``test`` under noise. All are gray, of 8x8
pixels enlarged to 32x32, in a folder per digit.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

SIZE = 32
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX,
         cv2.FONT_HERSHEY_SCRIPT_SIMPLEX)


def render(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Return a digit in one of the typefaces, (8, 8), uint8."""
    font, thickness = int(rng.choice(FONTS)), int(rng.integers(2, 5))
    image = np.zeros((SIZE, SIZE), np.uint8)
    (width, height), _ = cv2.getTextSize(str(digit), font, 1.2, thickness)
    place = ((SIZE - width) // 2, (SIZE + height) // 2)
    cv2.putText(image, str(digit), place, font, 1.2, 255, thickness, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), rng.uniform(-15, 15), rng.uniform(0.9, 1.1))
    turn[:, 2] += rng.uniform(-2, 2, 2)
    return cv2.resize(cv2.warpAffine(image, turn, (SIZE, SIZE)), (8, 8), interpolation=cv2.INTER_AREA)


def enlarge(image: np.ndarray) -> np.ndarray:
    """Return an image of 32x32 pixels."""
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def main(folder: Path) -> None:
    """Write all images."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    order = rng.permutation(len(digits.images))
    for number, index in enumerate(order):
        image = enlarge((digits.images[index] * 255 / 16).astype(np.uint8))
        split = 'train' if number < 512 else 'val' if number < 768 else 'test'
        write(folder / split, number, digits.target[index], image)
        if split == 'test':
            noise = rng.normal(0, 60, image.shape)
            write(folder / 'noisy', number, digits.target[index], (image + noise).clip(0, 255).astype(np.uint8))
    for number in range(1000):
        write(folder / 'rendered', number, number % 10, enlarge(render(number % 10, rng)))


def write(folder: Path, number: int, label: int, image: np.ndarray) -> None:
    """Write an image into its digit's folder."""
    path = folder / str(label) / f'{number:04}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    main(parser.parse_args().folder)
