"""``init_cfg=dict(type='ZeroHead')``: zeros for a linear head; the backbone waits until the head has begun to form."""

import torch
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def zero_head(head: nn.Module) -> nn.Module:
    """Set a linear head's weight and bias to zero and return the layer.

    The gradient that reaches the features is the head's weight times that of the logits: none in the first iteration,
    then as much as the head has learned (Ha, Jeong, Lee, AAAI 2024, section "Integrating LP and FT").

    Raises:
        ValueError: The head does not have exactly one layer with parameters, a linear or convolution one.
    """
    layers = {name or type(head).__name__: module for name, module in head.named_modules()
              if next(module.parameters(recurse=False), None) is not None}
    kinds = ', '.join(f'{name} ({type(layer).__name__})' for name, layer in list(layers.items())[:4])
    if len(layers) != 1:
        raise ValueError(
            f'Zeros are for a head that is one linear layer; {type(head).__name__} has {len(layers)} layers with '
            f'parameters: {kinds}{", …" if len(layers) > 4 else ""}. Zeros in several layers stop the gradient '
            'between them, so that they never learn. Leave a decoder its random initialization.')
    layer = next(iter(layers.values()))
    if not isinstance(layer, _LINEAR):
        raise ValueError(f'Zeros are for a head that is one linear layer; the only one of {type(head).__name__} is '
                         f'{kinds}. Leave it its own initialization.')
    for parameter in layer.parameters():
        parameter.zero_()
    return layer


@WEIGHT_INITIALIZERS.register_module()
class ZeroHead:
    """Initialize a head that is one linear layer with zeros; refuse any other.

    In a config, for instance with ``FCNHead(num_convs=0)``::

        decode_head=dict(init_cfg=dict(type='ZeroHead'))
    """

    def __call__(self, module: nn.Module) -> None:
        """Initialize a head."""
        zero_head(module)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info='ZeroHead: zeros')
