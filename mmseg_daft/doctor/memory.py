"""One training forward on the CPU: whether the loss is finite, and what the run will need of a GPU's memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mmseg_daft.doctor.config import type_name
from mmseg_daft.doctor.finding import Finding, Problem, Verdict, ok

GIB = 2**30
CARDS = (8, 11, 16, 24, 40, 80)
LARGEST = 330 * 330  # pixels of a crop that a CPU runs in seconds
IMAGES = 2  # batch norm after a global pooling wants more than one


@dataclass(frozen=True)
class Step:
    """A training forward.

    Attributes:
        loss: The whole loss.
        losses: Its parts by name.
        saved: Bytes that backward will need, per image of the full crop.
        crop: Height and width of the full crop.
        ran: Height and width that was run.
        real: Whether on images of the data set.
    """

    loss: float
    losses: dict[str, float]
    saved: float
    crop: tuple[int, int]
    ran: tuple[int, int]
    real: bool


def training_step(cfg: Config, model: nn.Module, dataset: Any, full: bool) -> Step:
    """Run the training forward of two images, large crops thinned out unless ``full``, and scale what it saves.

    Args:
        cfg: The config.
        model: Its model, on the CPU; statistics of its batch norm change.
        dataset: The training data, or ``False`` for noise in their place.
        full: Run the full crop.
    """
    samples = ([dataset[i] for i in (0, len(dataset) // 2)] if dataset else
               [_noise(cfg, model, seed) for seed in range(IMAGES)])
    model.train()
    data = model.data_preprocessor(pseudo_collate(samples), True)
    crop = tuple(data['inputs'].shape[-2:])
    stride = 1 if full else ceil(sqrt(crop[0] * crop[1] / LARGEST))
    small = thinned(data, stride)
    try:
        losses, saved = _run(model, small)
    except Exception:
        if stride == 1:
            raise
        small = data  # some models take one size alone
        losses, saved = _run(model, small)
    ran = tuple(small['inputs'].shape[-2:])
    loss, parts = model.parse_losses(losses)
    saved *= crop[0] * crop[1] / (ran[0] * ran[1]) / len(samples)
    return Step(float(loss), {name: float(value) for name, value in parts.items()}, saved, crop, ran, bool(dataset))


def check_step(step: Step) -> Iterator[Finding]:
    """Say whether the loss is finite."""
    on = f'{IMAGES} {"training images" if step.real else "images of noise, as the data cannot be used,"} at ' \
         f'{step.ran[1]}x{step.ran[0]}'
    bad = [name for name, value in step.losses.items() if value != value or abs(value) == float('inf')]
    if bad:
        raise Problem(f'{", ".join(bad)} is not finite on {on}.',
                      'Look at the labels, the normalisation and the losses.')
    yield ok('training step', f'loss {step.loss:.3g} on {on}, CPU, without pre-trained weights')


def check_memory(cfg: Config, model: nn.Module, optimizer: torch.optim.Optimizer, step: Step) -> Iterator[Finding]:
    """Estimate the memory that training takes on one GPU, and compare it with the one here."""
    amp = type_name(cfg.optim_wrapper) == 'AmpOptimWrapper'
    images = cfg.train_dataloader.get('batch_size') or 1
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    activations = images * step.saved * (0.5 if amp else 1)
    total = (weights + gradients + optimizer_state_bytes(optimizer) + activations) / GIB
    found = (f'about {_gb(total)} GB per GPU: {_gb(activations / GIB)} saved for backward ({images} images of '
             f'{step.crop[1]}x{step.crop[0]}{", halved as mixed precision" if amp else ""}), '
             f'{_gb(total - activations / GIB)} for weights, gradients and optimizer; an estimate, without the '
             'workspaces of cuDNN')
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0).total_memory / GIB
        if total > card:
            raise Problem(f'{found}. The GPU here has {card:.1f} GB.', _smaller(images))
        yield ok('GPU memory', f'{found}. The GPU here has {card:.1f} GB.')
        return
    fitting = [card for card in CARDS if total + 1 <= card]
    yield Finding('GPU memory', Verdict.OK if fitting else Verdict.WARN, f'{found}. ' + (
        f'Cards of {fitting[0]} GB and more hold it.' if fitting else f'No card of {CARDS[-1]} GB holds it.'),
        '' if fitting else _smaller(images))


def saved_bytes(run: Callable[[], Any], apart: Iterable[Tensor] = ()) -> tuple[Any, int]:
    """Run something and count the bytes that autograd keeps for its backward, each storage once.

    Args:
        run: What to run.
        apart: Tensors that do not count, such as parameters.
    """
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
    """Return how much an optimizer keeps beside the parameters, by one step of its kind on a parameter of its own."""
    p = nn.Parameter(torch.zeros(64, 64))
    p.grad = torch.zeros_like(p)
    known = inspect.signature(type(optimizer).__init__).parameters
    probe = type(optimizer)([p], **{key: value for key, value in optimizer.defaults.items() if key in known})
    probe.step()
    kept = sum(t.numel() * t.element_size() for t in probe.state[p].values() if isinstance(t, Tensor) and t.numel() > 1)
    trained = sum(q.numel() * q.element_size() for group in optimizer.param_groups for q in group['params'])
    return trained * kept / (p.numel() * p.element_size())


def thinned(data: dict, stride: int) -> dict:
    """Return a preprocessed batch with every ``stride``-th row and column of its images and labels."""
    if stride == 1:
        return data
    samples = []
    for sample in data['data_samples']:
        label = sample.gt_sem_seg.data[..., ::stride, ::stride].contiguous()
        shape = dict(img_shape=tuple(label.shape[-2:]), pad_shape=tuple(label.shape[-2:]))
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=label), metainfo={**sample.metainfo, **shape}))
    return dict(inputs=data['inputs'][..., ::stride, ::stride].contiguous(), data_samples=samples)


def _run(model: nn.Module, data: dict) -> tuple[dict, int]:
    return saved_bytes(lambda: model._run_forward(data, mode='loss'), [*model.parameters(), *model.buffers()])


def _noise(cfg: Config, model: nn.Module, seed: int) -> dict:
    """A sample of the crop's size in place of a real one."""
    crops = [transform.get('crop_size') for transform in cfg.get('train_pipeline') or () if transform.get('crop_size')]
    size = getattr(model.data_preprocessor, 'size', None) or (crops[-1] if crops else 512)
    h, w = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    classes = getattr(model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head,
                      'num_classes', 2)
    label = torch.randint(0, classes, (1, h, w), generator=generator)
    sample = SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(h, w), ori_shape=(h, w)))
    return dict(inputs=torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8), data_samples=sample)


def _gb(amount: float) -> str:
    return f'{amount:.1f}' if amount >= 0.95 else f'{amount:.2f}'


def _smaller(images: int) -> str:
    return (f'Take fewer than {images} images per GPU (train_dataloader.batch_size) on more GPUs or with '
            'optim_wrapper.accumulative_counts, or optim_wrapper.type=AmpOptimWrapper.')
