"""One training forward on the CPU: whether the loss is finite, and how much of a GPU's memory the run will need."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from math import ceil, isfinite, sqrt
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mmseg_daft.doctor.finding import Finding, Verdict, fail, ok
from mmseg_daft.engine.configs import type_name

GIB = 2**30
CARDS = (8, 11, 16, 24, 40, 80)
LARGEST = 330 * 330  # pixels of a crop that a CPU runs in seconds
IMAGES = 2  # batch norm after a global pooling needs more than one


def check_step(
    cfg: Config, model: nn.Module, dataset: Any, full: bool,
) -> Generator[Finding, None, tuple[float, tuple[int, int]]]:
    """Run the training forward of two images (noise, if ``dataset`` is ``False``); say whether the loss is finite.

    Large crops are thinned out, unless ``full``. The statistics of the model's batch norm change.

    Returns:
        How many bytes backward needs per image of the full crop, and the crop's height and width.
    """
    samples = ([dataset[i] for i in (0, len(dataset) // 2)] if dataset else
               [_noise(cfg, model, seed) for seed in range(IMAGES)])
    model.train()
    data = model.data_preprocessor(pseudo_collate(samples), True)
    crop = tuple(data['inputs'].shape[-2:])
    stride = 1 if full else ceil(sqrt(crop[0] * crop[1] / LARGEST))
    run = _thinned(data, stride)
    try:
        losses, saved = _forward(model, run)
    except Exception:
        if stride == 1:
            raise
        run = data  # some models take one size only
        losses, saved = _forward(model, run)
    h, w = run['inputs'].shape[-2:]
    loss, parts = model.parse_losses(losses)
    infinite = [name for name, value in parts.items() if not isfinite(value)]
    on = f'{IMAGES} {"training images" if dataset else "images of noise, as the data cannot be used,"} at {w}x{h}'
    if infinite:
        yield fail(f'{", ".join(infinite)} is not finite on {on}.',
                   'Check the labels, the normalization and the losses.')
    else:
        yield ok(f'loss {float(loss):.3g} on {on}, CPU, without pre-trained weights')
    return saved * crop[0] * crop[1] / (h * w) / IMAGES, crop


def check_memory(
    cfg: Config, model: nn.Module, optimizer: torch.optim.Optimizer, step: tuple[float, tuple[int, int]],
) -> Iterator[Finding]:
    """Estimate the memory that training takes on one GPU from :func:`check_step`, and compare it with a GPU here."""
    saved, (h, w) = step
    amp = type_name(cfg.optim_wrapper) == 'AmpOptimWrapper'
    images = cfg.train_dataloader.get('batch_size') or 1
    fixed = (_bytes(model.parameters()) + _bytes(model.buffers()) + optimizer_state_bytes(optimizer)
             + _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)) / GIB
    activations = images * saved * (0.5 if amp else 1) / GIB
    total = fixed + activations
    found = (f'about {total:.3g} GB per GPU: {activations:.3g} saved for backward ({images} images of '
             f'{w}x{h}{", halved as mixed precision" if amp else ""}), {fixed:.3g} for weights, '
             'gradients and optimizer; an estimate, without the workspaces of cuDNN.')
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0).total_memory / GIB
        verdict = Verdict.OK if total <= card else Verdict.FAIL
        found += f' The GPU here has {card:.1f} GB.'
    else:
        card = next((card for card in CARDS if total + 1 <= card), None)
        verdict = Verdict.OK if card else Verdict.WARN
        found += f' Cards of {card} GB and more hold it.' if card else f' No card of {CARDS[-1]} GB holds it.'
    yield Finding(verdict, found, '' if verdict is Verdict.OK else
                  f'Take fewer than {images} images per GPU (train_dataloader.batch_size) on more GPUs or with '
                  'optim_wrapper.accumulative_counts, or optim_wrapper.type=AmpOptimWrapper.')


def saved_bytes(run: Callable[[], Any], apart: Iterable[Tensor] = ()) -> tuple[Any, int]:
    """Run something; return its result and how many bytes it keeps for backward, apart from those of some tensors."""
    known = {tensor.untyped_storage().data_ptr() for tensor in apart}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return result, sum(storages.values())


def optimizer_state_bytes(optimizer: torch.optim.Optimizer) -> float:
    """Return how much an optimizer keeps beside the parameters, measured by a step of its kind on another parameter."""
    probe = nn.Parameter(torch.zeros(64, 64))
    probe.grad = torch.zeros_like(probe)
    known = inspect.signature(type(optimizer).__init__).parameters
    twin = type(optimizer)([probe], **{key: value for key, value in optimizer.defaults.items() if key in known})
    twin.step()
    kept = _bytes(t for t in twin.state[probe].values() if isinstance(t, Tensor) and t.numel() > 1)
    return kept / _bytes([probe]) * _bytes(p for group in optimizer.param_groups for p in group['params'])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _forward(model: nn.Module, data: dict) -> tuple[dict, int]:
    return saved_bytes(lambda: model(**data, mode='loss'), [*model.parameters(), *model.buffers()])


def _thinned(data: dict, stride: int) -> dict:
    """Return a preprocessed batch with every ``stride``-th row and column of its images and labels."""
    if stride == 1:
        return data
    samples = []
    for sample in data['data_samples']:
        label = sample.gt_sem_seg.data[..., ::stride, ::stride].contiguous()
        shape = dict(img_shape=tuple(label.shape[-2:]), pad_shape=tuple(label.shape[-2:]))
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=label), metainfo={**sample.metainfo, **shape}))
    return dict(inputs=data['inputs'][..., ::stride, ::stride].contiguous(), data_samples=samples)


def _noise(cfg: Config, model: nn.Module, seed: int) -> dict:
    """Return a sample of the crop's size in place of a real one."""
    crops = [transform['crop_size'] for transform in cfg.get('train_pipeline') or () if transform.get('crop_size')]
    size = getattr(model.data_preprocessor, 'size', None) or (crops[-1] if crops else 512)
    h, w = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    head = model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head
    label = torch.randint(0, getattr(head, 'num_classes', 2), (1, h, w), generator=generator)
    sample = SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(h, w), ori_shape=(h, w)))
    return dict(inputs=torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8), data_samples=sample)
