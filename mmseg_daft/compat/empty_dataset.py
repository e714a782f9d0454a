"""Say that a data set is empty, where MMEngine would fail on concatenating nothing.

MMEngine serialises the list of samples before any hook or loop runs; of an empty list it says only
"need at least one array to concatenate".
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from mmengine.dataset import BaseDataset


def explain_empty_dataset() -> None:
    """Let MMEngine's data sets say what to check when they find no sample; nothing else changes."""
    serialize = BaseDataset._serialize_data
    if hasattr(serialize, '__wrapped__'):
        return

    @wraps(serialize)
    def checked(self: BaseDataset) -> Any:
        if not self.data_list:
            raise ValueError(
                f'{type(self).__name__} found no image with data_root={self.data_root!r}, '
                f'ann_file={self.ann_file!r}, data_prefix={dict(self.data_prefix)!r}. Check these paths, and '
                'img_suffix and seg_map_suffix.')
        return serialize(self)

    BaseDataset._serialize_data = checked
