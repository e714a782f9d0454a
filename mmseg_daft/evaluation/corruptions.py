"""The corruptions of ImageNet-C on decoded images, drawn anew and always alike, as a transform of mmseg's pipelines."""

import copy
import difflib
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmseg.registry import TRANSFORMS
from numpy.typing import NDArray

from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.engine.configs import ConfigError, kinds_in, type_name, types_in
from mmseg_daft.engine.training_data import leaf_datasets
from mmseg_daft.files import UnwritableError, refuse_unwritable, write_atomically

GROUPS = {
    'noise': ('gaussian_noise', 'shot_noise', 'impulse_noise'),
    'blur': ('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
    'weather': ('snow', 'frost', 'fog', 'brightness'),
    'digital': ('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression')}
"""The 15 corruptions of ImageNet-C (Hendrycks, Dietterich, ICLR 2019), which the paper's Table 4 is about."""

CITYSCAPES_C = {
    'noise': ('gaussian_noise', 'shot_noise', 'impulse_noise', 'speckle_noise'),
    'blur': ('defocus_blur', 'glass_blur', 'motion_blur', 'gaussian_blur'),
    'weather': ('snow', 'frost', 'fog', 'spatter'),
    'digital': ('brightness', 'contrast', 'saturate', 'jpeg_compression')}
"""The 16 of Cityscapes-C (Kamann, Rother, CVPR 2020), as in SegFormer's table: noise at severities 1 to 3 alone."""

LIBRARY = 'imagecorruptions-imaug'
SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIDE = 32
"""Pixels that the library needs in height and width."""

_GROUP = {name: group for groups in (CITYSCAPES_C, GROUPS) for group, names in groups.items() for name in names}
_STANDS_FOR = {
    'all': tuple(itertools.chain(*GROUPS.values())), 'cityscapes-c': tuple(itertools.chain(*CITYSCAPES_C.values())),
    **GROUPS, **{name: (name,) for name in _GROUP}}
_SEEDED_BY_ARGUMENT = ('impulse_noise', 'glass_blur')
"""What the library draws from a generator of its own; all else comes from NumPy's global one."""


def group_of(name: str) -> str:
    """Return the group of a corruption: noise, blur, weather or digital (brightness, as in ImageNet-C, is weather)."""
    return _GROUP[name]


def cells(names: Iterable[str], severities: Sequence[int] = SEVERITIES) -> list[tuple[str, int]]:
    """Return the corruptions and severities that some names stand for, each pair once.

    Args:
        names: Corruptions, groups, ``all`` (the 15 of ImageNet-C) or ``cityscapes-c`` (SegFormer's protocol: 16
            corruptions, noise at severities 1 to 3 alone, so 72 pairs).
        severities: Those to keep, from 1 to 5.

    Raises:
        ConfigError: There is no such name or severity, or the library is missing.
    """
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not severities:
        raise ConfigError(f'Severities {", ".join(map(str, wrong or ["none"]))}: give numbers from 1 to 5.')
    chosen = []
    for name in names:
        if name not in _STANDS_FOR:
            raise ConfigError(f'There is no corruption {name}.{near(name, _STANDS_FOR)} Name one or more of '
                              f'{", ".join(_STANDS_FOR)}.')
        chosen += [(one, severity) for one in _STANDS_FOR[name] for severity in severities
                   if not (name == 'cityscapes-c' and group_of(one) == 'noise' and severity > 3)]
    _library()
    return list(dict.fromkeys(chosen))


def near(name: Any, names: Iterable[str]) -> str:
    """Return a question that ends a message: whether a similar name was meant; nothing where there is none."""
    found = difflib.get_close_matches(str(name), list(names), 1)
    return f' Did you mean {found[0]}?' if found else ''


def corrupt(image: NDArray[np.uint8], name: str, severity: int) -> NDArray[np.uint8]:
    """Return a corrupted image, both RGB of shape (H, W, 3).

    It is what ``imagecorruptions`` makes of it with a seed that is a hash of the image's pixels, the corruption and the
    severity. So it is the same in every process and order, and wherever the file lies. No global generator is changed.
    """
    seed = int.from_bytes(_digest(image, name, severity)[:4], 'little')
    with preserved_random_state():
        np.random.seed(seed)
        options = {'seed': seed} if name in _SEEDED_BY_ARGUMENT else {}
        return _library().corrupt(image, severity, name, **options)


def _digest(image: NDArray[np.uint8], name: str, severity: int) -> bytes:
    digest = hashlib.sha256(np.ascontiguousarray(image))
    digest.update(f'{image.shape} {name} {severity}'.encode())
    return digest.digest()


def _library() -> Any:
    """Import imagecorruptions, with numba and scikit-image, where it is needed: it takes a second.

    Raises:
        ConfigError: It is missing, or it is the package of the same module that is no longer maintained.
    """
    try:
        version(LIBRARY)
    except PackageNotFoundError:
        raise ConfigError('Corruptions need imagecorruptions-imaug: pip install "mmseg-daft[corruptions]" (after pip '
                          'uninstall imagecorruptions, if that older package is there).') from None
    import imagecorruptions

    return imagecorruptions


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """Corrupt ``results['img']`` as ``corrupt`` does; put it directly behind ``LoadImageFromFile``.

    There the image has its own size and values, in BGR, and severities mean what they were made for. Labels stay.

    Args:
        name: The corruption.
        severity: From 1 to 5.
        cache: A folder for the corrupted images, as PNG files: worth it where many later runs are to be evaluated on
            slow corruptions. A file is named by what it is made of, so nothing in it can be out of date.

    Raises:
        ConfigError: There is no such corruption or severity, or the library is missing.
        UnwritableError: The cache cannot be written.
    """

    def __init__(self, name: str, severity: int, cache: str | None = None) -> None:
        if cells([name], [severity]) != [(name, severity)]:
            raise ConfigError(f'Corrupt(name={name!r}): give one corruption, such as fog.')
        if cache is not None:
            refuse_unwritable(Path(cache, f'{name}-{severity}', 'x.png'))
        self.name, self.severity, self.cache = name, severity, cache
        # glass_blur is compiled here, in seconds, and so before workers fork, not in each of them.
        corrupt(np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8), name, severity)

    def transform(self, results: dict) -> dict:
        """Corrupt an image of shape (H, W, 3), uint8, or float32 of the same values.

        Raises:
            ValueError: It is smaller than 32 pixels, or no color image of 8 bits; or the cache cannot be written.
        """
        image, place = results['img'], results.get('img_path', 'The image')
        if min(image.shape[:2]) < MIN_SIDE:
            raise ValueError(f'{place} has {image.shape[1]}x{image.shape[0]} pixels, and corruptions need {MIN_SIDE} '
                             'in width and height. Leave it out of the set, or evaluate without corruptions.')
        pixels = image.astype(np.uint8)
        if image.shape[2:] != (3,) or image.dtype not in (np.uint8, np.float32) or not np.array_equal(pixels, image):
            raise ValueError(f'{place} was read as {image.dtype} of shape {image.shape}, from {image.min()} to '
                             f'{image.max()}, and corruptions are for three channels from 0 to 255. Leave color_type '
                             "of LoadImageFromFile at 'color', which reads any file so, and put Corrupt behind it.")
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        results['img'] = cv2.cvtColor(self._cached(rgb), cv2.COLOR_RGB2BGR).astype(image.dtype, copy=False)
        return results

    def _cached(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.cache is None:
            return corrupt(rgb, self.name, self.severity)
        key = f'{_digest(rgb, self.name, self.severity).hex()[:32]}-{version(LIBRARY)}.png'
        path = Path(self.cache, f'{self.name}-{self.severity}', key)
        stored = cv2.imread(str(path)) if path.is_file() else None
        if stored is not None and stored.shape == rgb.shape:  # a damaged file is made anew
            return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
        made = corrupt(rgb, self.name, self.severity)
        try:
            write_atomically(path, cv2.imencode('.png', cv2.cvtColor(made, cv2.COLOR_RGB2BGR))[1].tobytes())
        except OSError as error:
            raise UnwritableError(f'The cache of corrupted images cannot be written: {error}. Free space, or go on '
                                  'without a cache: what it holds stays.') from error
        return made

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name}, severity={self.severity})'


def corrupted(dataset: dict, name: str, severity: int, cache: str | None = None) -> dict:
    """Return a copy of a data set's config whose images are corrupted, in all data sets inside its wrappers.

    Raises:
        ConfigError: A pipeline does not read images with ``LoadImageFromFile``.
    """
    dataset = copy.deepcopy(dataset)
    transform = dict(type='mmseg.Corrupt', name=name, severity=severity, cache=cache)
    for leaf in leaf_datasets(dataset):
        leaf['pipeline'] = insert_after(leaf.get('pipeline') or [], LoadImageFromFile, transform)
    return dataset


def insert_after(pipeline: Sequence, base: type, transform: dict) -> list:
    """Return a pipeline with a transform behind each that is of a class, also inside ``TestTimeAug``.

    Raises:
        ConfigError: There is none of the class.
    """
    if not any(_is(kind, base) for kind in kinds_in(pipeline)):
        raise ConfigError(f'{type_name(transform)} belongs behind {base.__name__}, and the pipeline of the data set '
                          f'has none: {", ".join(types_in(pipeline)) or "it is empty"}. Name {base.__name__} in it, or '
                          'a class of yours that is derived from it.')
    placed = []
    for step in pipeline:
        if isinstance(step, dict) and any(_is(kind, base) for kind in kinds_in(step.get('transforms', []))):
            step = {**step, 'transforms': insert_after(step['transforms'], base, transform)}
        placed.append(step)
        alternatives = isinstance(step, (list, tuple))  # TestTimeAug holds lists of them, and takes one of each list
        if any(_is(one['type'], base) for one in (step if alternatives else [step])):
            placed.append([dict(transform)] if alternatives else dict(transform))
    return placed


def _is(kind: str | type, base: type) -> bool:
    found = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    return isinstance(found, type) and issubclass(found, base)
