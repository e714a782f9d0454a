"""Target statistics in a file, ``BNConversionHook(statistics=FILE)``: the runs of a sweep share one pass.

Written if the file is not there, used if it was written by this very pass, refused with the difference named otherwise.
The format is safetensors; its metadata hold what the statistics depend on.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mmseg_daft.core.ranks import Ranks
from mmseg_daft.core.statistics import LayerStatistics
from mmseg_daft.engine.configs import model_of
from mmseg_daft.engine.training_data import ModelForward
from mmseg_daft.files import write_atomically

FORMAT = 1
"""Of the file, and of the way in which a pass draws its samples. Raise it whenever either changes."""
_LIBRARIES = ('torch', 'torchvision', 'mmengine', 'onedl-mmengine', 'mmcv', 'mmcv-lite', 'onedl-mmcv', 'mmsegmentation',
              'onedl-mmsegmentation', 'mmpretrain', 'onedl-mmpretrain', 'numpy', 'opencv-python',
              'opencv-python-headless', 'pillow', 'mmseg-daft')
_OF_NO_EFFECT = ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor', 'init_cfg')


class StoredPass(NamedTuple):
    """What a file keeps.

    Attributes:
        statistics: Of each layer, by name; on the CPU.
        facts: ``num_images``, ``num_batches`` and ``all_batches`` of the pass.
    """

    statistics: dict[str, LayerStatistics]
    facts: dict[str, int]


def statistics_path(name: str, identity: Mapping[str, str]) -> Path:
    """Return the path of a file; in its name ``{seed}`` stands for the seed, ``{pass}`` for a hash of the identity."""
    digest = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
    return Path(name.replace('{seed}', identity['seed']).replace('{pass}', digest))


def read_statistics(path: Path, identity: Mapping[str, str], ranks: Ranks | None) -> StoredPass | None:
    """Return what a file keeps, ``None`` if there is no file. The first rank reads, for all.

    Raises:
        ValueError: The file is damaged, or belongs to another pass; the message names what differs.
        OSError: It cannot be read, or there can be no folder for it.
    """
    def read() -> StoredPass | None:
        if not is_main_process():
            return None
        path.parent.mkdir(parents=True, exist_ok=True)  # before the pass, if that is impossible
        return _read(path, identity) if path.is_file() else None

    stored = [ranks.together(read) if ranks else read()]
    broadcast_object_list(stored)
    return stored[0]


def write_statistics(
    path: Path, statistics: Mapping[str, LayerStatistics], facts: Mapping[str, int], identity: Mapping[str, str],
) -> None:
    """Write the file as a whole; other runs may read or write it meanwhile. If that fails, the run goes on."""
    if not is_main_process():
        return
    tensors = {f'{name}.{key}': getattr(s, key).cpu().contiguous() for name, s in statistics.items()
               for key in ('mean', 'var')}
    content = dict(identity=dict(identity), facts=dict(facts),
                   num_batches={name: s.num_batches for name, s in statistics.items()})
    try:
        write_atomically(path, save(tensors, {key: json.dumps(value) for key, value in content.items()}))
    except OSError as error:
        print_log(f'statistics={str(path)!r} was not written ({error}); the run goes on.', 'current', logging.WARNING)


def _read(path: Path, expected: Mapping[str, str]) -> StoredPass:
    try:
        with safe_open(path, 'pt') as file:
            content = {key: json.loads(value) for key, value in file.metadata().items()}
            identity, facts, num_batches = (content[key] for key in ('identity', 'facts', 'num_batches'))
            statistics = {name: LayerStatistics(file.get_tensor(f'{name}.mean'), file.get_tensor(f'{name}.var'), n)
                          for name, n in num_batches.items()}
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f'statistics={str(path)!r} is not a file of target statistics ({error!r}). Remove it, or name '
                         'another.') from None
    differs = sorted(key for key in {*identity, *expected} if identity.get(key) != expected.get(key))
    if differs:
        hint = ' ({seed} in it gives each seed a file; randomness=dict(seed=0) fixes one)' if 'seed' in differs else ''
        raise ValueError(f'statistics={str(path)!r} holds the statistics of another pass: it differs in '
                         f'{", ".join(differs)}. Name another file{hint}, or remove this one to have it written again.')
    return StoredPass(statistics, facts)


def pass_identity(
    forward: ModelForward,
    layers: Mapping[str, nn.Module],
    settings: Mapping[str, Any],
    cfg: Config,
    num_images: int,
    precision: Callable[[], AbstractContextManager[Any]],
) -> dict[str, str]:
    """Return what the statistics of a pass depend on, each as a short text.

    Files of data are known by what the config says of them and by their number, not by their content. ``settings`` are
    the seed, the number of mini-batches and so on, ``precision`` makes the autocast context of the pass.
    """
    model = model_of(cfg).to_dict()
    parts = ('backbone', 'neck') if forward.features_only else tuple(model)
    runs = {name: tensor for name, tensor in forward.model.state_dict().items()
            if not forward.features_only or name.split('.')[0] in parts}
    # MMPretrain's Mixup is in train_cfg, which mmseg's bases leave empty.
    described = {*parts, 'type', 'data_preprocessor', *(['train_cfg'] if model.get('train_cfg') else [])}
    weights = hashlib.sha256()
    for name, tensor in runs.items():
        weights.update(f'{name}{tensor.dtype}{tuple(tensor.shape)}'.encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    device = next(iter(forward.model.parameters())).device
    with precision(), torch.no_grad():
        # No matrix product: a GPU's deterministic algorithms refuse one unless CUBLAS_WORKSPACE_CONFIG is set.
        ones = torch.ones(1, 1, 1, device=device, dtype=next(forward.model.parameters()).dtype)
        switch = getattr(torch.backends.cudnn, 'conv', torch.backends.cudnn)
        rounding = getattr(switch, 'fp32_precision', None) or torch.backends.cudnn.allow_tf32
        kind = str(torch.conv1d(ones, ones).dtype) + (f', TF32 {rounding}' if device.type == 'cuda' else '')
    return {
        'format': str(FORMAT),
        'libraries': json.dumps(dict(filter(None, map(_installed, _LIBRARIES)))),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type,
        'precision': kind,
        'weights': weights.hexdigest()[:16],
        'model': _text({key: model[key] for key in described if key in model}),
        'layers': _text({name: type(layer).__name__ for name, layer in layers.items()}),
        'train_dataloader': _text(cfg.train_dataloader.to_dict()),
        'num_images': str(num_images),
        'ranks': str(get_world_size()),
        **{key: str(value) for key, value in settings.items()},
    }


def _installed(name: str) -> tuple[str, str] | None:
    try:
        return name, version(name)
    except PackageNotFoundError:
        return None


def _text(cfg: Any) -> str:
    """Return a hash of a nested config, whatever the order of its keys, less what has no effect on statistics."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items() if key not in _OF_NO_EFFECT}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)

    return hashlib.sha256(json.dumps(plain(cfg), sort_keys=True).encode()).hexdigest()[:16]
