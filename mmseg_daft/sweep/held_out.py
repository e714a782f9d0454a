"""A held-out part of the training images, for selecting: the same on every machine for the same names and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

BY = ('image', 'folder', 'block')


def hold_out(
    names: Sequence[str], fraction: float, seed: int = 0, by: str = 'image',
) -> tuple[list[str], list[str]]:
    """Split names into those to train on and those held out, each in the given order.

    VOC and Cityscapes publish the labels of train and val alone, and val is the split that is reported, so what
    selects a learning rate has to come out of train.

    Args:
        names: Of the training images, without repetition.
        fraction: How many to hold out at least, of all; whole groups are held out.
        seed: Selects the part.
        by: What stays together. ``'image'``: nothing. ``'folder'``: a folder of the name, which is a city of
            Cityscapes; frames of one city are alike. ``'block'``: neighbours in a sorted recording, such as
            CamVid's, of which one stretch is held out.

    Raises:
        ValueError: The fraction is not between 0 and 1, a name comes twice, or nothing would be left.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'{fraction} of the training images cannot be held out: name a part between 0 and 1.')
    if len(set(names)) != len(names):
        raise ValueError('An image is named twice, so it could be in both parts.')
    wanted = fraction * len(names)
    if by == 'block':
        held = set(_block(sorted(names), -int(-wanted // 1), seed))
    else:
        group_of: Callable[[str], str] = {'image': str, 'folder': lambda name: name.rpartition('/')[0]}[by]
        sizes: dict[str, int] = {}
        for name in names:
            sizes[group_of(name)] = sizes.get(group_of(name), 0) + 1
        groups, count = set(), 0
        for group in sorted(sizes, key=lambda group: _number(seed, group)):
            if count >= wanted:
                break
            groups.add(group)
            count += sizes[group]
        held = {name for name in names if group_of(name) in groups}
    if len(held) in (0, len(names)):
        raise ValueError(f'Holding out {fraction} of {len(names)} images by {by} leaves nothing to '
                         f'{"train on" if held else "select by"}: choose another part, or by="image".')
    return [name for name in names if name not in held], [name for name in names if name in held]


def _number(seed: int, text: str) -> str:
    return hashlib.sha256(f'{seed}:{text}'.encode()).hexdigest()


def _block(ordered: list[str], size: int, seed: int) -> list[str]:
    first = int(_number(seed, 'block'), 16) % (len(ordered) - size + 1)
    return ordered[first:first + size]
