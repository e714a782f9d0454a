"""``init_cfg=dict(type='ZeroHead')``: zero initialisation of a linear head, as DAFT has it."""

from __future__ import annotations

from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmseg_daft.core.head_initialisation import zero_head


@WEIGHT_INITIALIZERS.register_module()
class ZeroHead:
    """Initialise a head that is one linear layer with zeros; refuse any other.

    In a config, for instance with ``FCNHead(num_convs=0)``::

        decode_head=dict(init_cfg=dict(type='ZeroHead'))

    Raises:
        ValueError: When called, for a head of several layers.
    """

    def __call__(self, module: nn.Module) -> None:
        """Initialise a head."""
        zero_head(module)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info='ZeroHead: zeros')
