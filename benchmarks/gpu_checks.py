"""The checks and measures of `on_gpu.py`, each a function of a device, sizes and an empty folder.

All of them also run on a CPU, at toy sizes; what a CPU cannot show, a docstring says.
"""

from __future__ import annotations

import copy
import gc
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import statistics_pass
import torch
import torch.distributed as dist
import training
from distortion_look import images
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from stop_error import worst_layer
from support.data_layouts import write_voc
from support.small_runs import CONFIGS, DAFT_VOC, FT_VOC, slim_down, train
from torch import Tensor, nn

from mmseg_daft.core.algorithm import convert_batch_norm
from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.ranks import Ranks
from mmseg_daft.core.statistics import LayerStatistics, batch_moments, collect_statistics
from mmseg_daft.engine.convert_model import CONVERTED, RECORD
from mmseg_daft.engine.hooks.feature_distortion_hook import FeatureDistortionHook


@dataclass(frozen=True)
class Sizes:
    """How much is computed: on a GPU the recipe's sizes, on a CPU toys.

    Attributes:
        base_channels: 64 is ResNet-50.
        maps: Shapes of the inputs whose moments are taken.
        crop, batch: Of the trainings, square.
        small_crop, small_batch: Of the checks that need no real size.
        iterations: Of the trainings that are compared.
        images, image_size: Of the made data: training images of each of VOC's two parts, height and width.
        small_images: The same of the checks that need no real size.
        workers: Processes that load data.
        passes, batches: Sizes of the measured passes' images, and mini-batches of each.
        repeats: Of each measurement.
    """

    base_channels: int = 64
    maps: tuple[tuple[int, ...], ...] = (
        (16, 64, 384, 384), (16, 64, 257, 257), (16, 256, 129, 129), (16, 2048, 33, 33), (7, 30, 15, 13), (300, 64))
    crop: int = 513
    batch: int = 16
    small_crop: int = 129
    small_batch: int = 4
    iterations: int = 50
    images: int = 96
    small_images: int = 12
    image_size: tuple[int, int] = (375, 500)
    workers: int = 8
    passes: tuple[int, ...] = (513, 768)
    batches: int = 3
    repeats: int = 7


TOY = Sizes(base_channels=4, maps=((2, 8, 40, 40), (3, 6, 5, 7), (30, 8)), crop=64, batch=2, small_crop=64,
            small_batch=4, iterations=3, images=3, small_images=3, image_size=(60, 80), workers=0, passes=(64,),
            batches=2, repeats=2)


def sizes_for(device: torch.device) -> Sizes:
    """Return what a device can do in minutes."""
    return Sizes() if device.type == 'cuda' else TOY


@dataclass(frozen=True)
class Number:
    """What a check found.

    Attributes:
        what: In words, with the unit.
        value: The number.
        limit: What it may be at most: if it is more, or NaN, it is wrong.
        goal: What it should be at most, which no test can hold a machine to.
    """

    what: str
    value: float
    limit: float | None = None
    goal: float | None = None

    @property
    def wrong(self) -> bool:
        """Whether it is a wrong number."""
        return self.limit is not None and not self.value <= self.limit


Tables = Mapping[str, Sequence[Mapping[str, Any]]]
Check = Callable[[torch.device, Sizes, Path], tuple[list[Number], Tables]]


def moments(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Compare the moments of made inputs with those in float64 of the very same inputs.

    On a GPU PyTorch's kernel sums in float32, by Welford's method, each thread thousands of elements. Where a standard
    deviation is ten thousand times smaller than the mean, that may cost what is allowed here, which a simulation of the
    kernel gave; the running mean's own float32 rounds by a tenth of it. A CPU is exact to 1e-5.
    """
    far = (5e-3, 1e-3) if device.type == 'cuda' else (1e-5, 1e-5)
    cases = [(torch.float32, 0, 1, (1e-5, 1e-5)), (torch.float32, 1e3, 0.1, far), *(
        (dtype, mean, 1, (1e-4, 1e-4)) for dtype in (torch.bfloat16, torch.float16) for mean in (0, 10))]
    numbers = []
    for (dtype, mean, std, limits), layout in itertools.product(cases, ('contiguous', 'channels last', 'sliced')):
        worst = [0.0, 0.0]
        for shape in sizes.maps:
            made = torch.randn(shape, dtype=torch.float64, device=device).mul_(std).add_(mean).to(dtype)
            if layout == 'channels last' and len(shape) == 4:
                made = made.contiguous(memory_format=torch.channels_last)
            elif layout == 'sliced':
                made = made[:, ::2]
            found, _ = batch_moments(made)
            var, center = torch.var_mean(made.double(), [i for i in range(len(shape)) if i != 1], correction=1)
            errors = (found[0] - center).abs() / (var + 1e-5).sqrt(), (found[1] - var).abs() / (var + 1e-5)
            worst = [_largest(before, error) for before, error in zip(worst, errors, strict=True)]
        name = f'{_name(dtype)}, mean {mean:g}, variance {std**2:g}, {layout}'
        numbers += [Number(f'error of the mean, standard deviations: {name}', worst[0], limits[0]),
                    Number(f'relative error of the variance: {name}', worst[1], limits[1])]
    return numbers, {}


def network(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Compare the statistics of a ResNet-50, in each precision that one trains in, with those in float64.

    The worst layer counts. What TF32, bfloat16 and float16 cost is their own rounding in the convolutions, which grows
    from layer to layer: the conversion then sees what training will see. A CPU has no TF32.
    """
    model = trained(statistics_pass.segmentor(sizes.base_channels).backbone.to(device), sizes.small_crop)
    batches = [torch.randn(sizes.small_batch, 3, sizes.small_crop, sizes.small_crop, device=device) for _ in range(2)]
    right = _collect(copy.deepcopy(model).double(), [batch.double() for batch in batches])
    layers = find_batch_norms(model, '')
    ways = [('float32', False, None, 1e-4), ('float32 with TF32', True, None, 2e-2),
            ('bfloat16', False, torch.bfloat16, 0.1), ('float16', False, torch.float16, 2e-2)]
    numbers = []
    for (name, on, dtype, limit), layout in itertools.product(ways, ('contiguous', 'channels last')):
        layout_of = torch.channels_last if layout == 'channels last' else torch.contiguous_format
        model.to(memory_format=layout_of)
        with tf32(on), torch.autocast(device.type, dtype, enabled=dtype is not None):
            found = _collect(model, [batch.contiguous(memory_format=layout_of) for batch in batches])
        mean, var = worst_layer(found, right, layers)
        numbers += [Number(f'worst layer\'s means off, standard deviations: {name}, {layout}', mean, limit),
                    Number(f'worst layer\'s variances off, relative: {name}, {layout}', var, limit)]
    return numbers, {}


def amp(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Train DAFT for two iterations under `AmpOptimWrapper`: the conversion's own check of the output, and the losses.

    The pass runs in half precision, the check in full float32, whatever TF32 is set to. MMEngine has no such wrapper on
    a CPU, where float32 is all that runs.
    """
    data, start = made_voc(folder, sizes, sizes.small_images), made_start(folder, device, sizes)
    numbers = []
    for dtype in ('bfloat16', 'float16') if device.type == 'cuda' else ('float32',):
        cfg = voc_config(DAFT_VOC, folder / dtype, data, start, sizes, sizes.small_crop, sizes.small_batch, 2)
        if device.type == 'cuda':
            cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype, loss_scale='dynamic')
        runner = train(cfg)
        record = runner.message_hub.get_info(RECORD)
        numbers += [Number(f'largest relative change of the output by the conversion: {dtype}',
                           record['output_change'], 1e-4),
                    Number(f'losses that are not finite: {dtype}', _not_finite(runner), 0)]
    return numbers, {}


def nccl(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Convert SyncBN layers in a process group of one rank, and train so: everything equals plain batch norm.

    All collectives run, by NCCL on a GPU and by gloo on a CPU; that several ranks agree, tests show on CPUs. SyncBN
    has no forward in train mode on a CPU.
    """
    plain = trained(statistics_pass.segmentor(sizes.base_channels).backbone.to(device), sizes.small_crop)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain)).to(device)
    batches = [torch.randn(sizes.small_batch, 3, sizes.small_crop, sizes.small_crop, device=device) for _ in range(3)]
    layers = find_batch_norms(plain, '')
    numbers = []
    data, start = made_voc(folder, sizes, sizes.small_images), made_start(folder, device, sizes)
    tensors = []
    with tf32(False), process_group(device, folder):
        if device.type == 'cuda':
            with torch.no_grad():
                copies = copy.deepcopy([plain, synced])
                for model in copies:
                    model.train()  # mmseg's ResNet returns nothing here
                outputs = [model(batches[0])[-1] for model in copies]
            numbers.append(Number('SyncBN\'s output in train mode, off by, relative',
                                  float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()), 1e-4))
        for by_batch in (False, True):
            right = collect_statistics(plain, layers, batches, plain, by_batch)
            for name, model in (('batch norm', plain), ('SyncBN', synced)):
                found = collect_statistics(model, find_batch_norms(model, ''), batches, model, by_batch,
                                           ranks=Ranks(device))
                numbers.append(Number(
                    f'statistics of {name} over ranks, off by{" (AdaBN)" if by_batch else ""}, worst layer',
                    max(worst_layer(found, right, layers)), 1e-4))
        report = convert_batch_norm(synced, batches, ranks=Ranks(device))
        numbers.append(Number('largest relative change of the output by the conversion', report.output_change, 1e-4))
        for launcher in ('none', 'pytorch'):
            cfg = voc_config(DAFT_VOC, folder / launcher, data, start, sizes, sizes.small_crop, sizes.small_batch, 2)
            cfg.launcher = launcher
            if device.type == 'cpu' and launcher == 'pytorch':
                cfg.model_wrapper_cfg = dict(type='CPUDistributedDataParallel')
            runner = train(cfg)
            numbers.append(Number(f'losses that are not finite: launcher {launcher}', _not_finite(runner), 0))
            tensors.append(runner.message_hub.get_info(CONVERTED))
            del runner
            gc.collect()  # what holds the process group, in cycles
    numbers.append(Number('converted tensors under --launcher pytorch, off by, relative', max(
        float((tensors[1][name] - right).abs().max() / right.abs().max()) for name, right in tensors[0].items()), 1e-3))
    return numbers, {}


def resume(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Train DAFT twice under deterministic algorithms, once with `FeatureDistortionHook`, and once more resumed.

    All three have to end equal to the bit: weights, optimizer, the validation in between and at the end.
    """
    data, start = made_voc(folder, sizes, sizes.small_images), made_start(folder, device, sizes)

    def run(name: str, *hooks: str, resumed: bool = False) -> dict[str, Tensor]:
        cfg = voc_config(DAFT_VOC, folder / name, data, start, sizes, sizes.small_crop, sizes.small_batch, 6)
        cfg.randomness = dict(seed=0, deterministic=True)
        cfg.custom_hooks = [dict(type=hook) for hook in ('BNConversionHook', 'ExactResumeHook', *hooks)]
        cfg.default_hooks.checkpoint.interval = cfg.train_cfg.val_interval = 3
        cfg.resume = resumed
        train(cfg)
        checkpoint = torch.load(folder / name / 'iter_6.pth', map_location='cpu')
        return {f'{part}{path}': tensor for part in ('state_dict', 'optimizer')
                for path, tensor in _tensors(checkpoint[part])}

    with deterministic():
        whole = run('whole')
        observed = run('observed', 'FeatureDistortionHook')
        (folder / 'resumed').mkdir()
        shutil.copy(folder / 'whole' / 'iter_3.pth', folder / 'resumed')
        (folder / 'resumed' / 'last_checkpoint').write_text(str(folder / 'resumed' / 'iter_3.pth'))
        resumed = run('resumed', resumed=True)
    return [Number(f'of {len(whole)} tensors, differ {why}', _different(whole, other), 0) for why, other in (
        ('between two runs, one of them with FeatureDistortionHook', observed), ('after a resume', resumed))], {}


def distortion(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Measure how far a network's features are from those before it was disturbed, here and on the CPU."""
    before = statistics_pass.segmentor(sizes.base_channels, preprocessor=True)
    trained(before.backbone, 64)
    after = copy.deepcopy(before)
    generator = torch.Generator().manual_seed(1)
    for weight in after.backbone.parameters():
        if weight.dim() == 4:
            noise = torch.randn(weight.shape, generator=generator)
            weight.data += 0.1 * weight.data.std() * noise
    samples = images(4, (sizes.small_crop, sizes.small_crop))
    scalars = []
    for place in (torch.device('cpu'), device):
        hook = FeatureDistortionHook()
        with tf32(False):
            hook.keep(copy.deepcopy(before).to(place), samples, {})
            scalars.append(hook.measure(copy.deepcopy(after).to(place)))
    right, found = scalars
    if found.keys() != right.keys() or not {'stage4/cka', 'stage4/cosine_similarity'} <= right.keys():
        raise RuntimeError(f'The hook measured {sorted(found)} here and {sorted(right)} on the CPU.')
    return [Number('the hook\'s scalars, off from the CPU\'s by, relative', max(
        abs(found[name] - value) / max(abs(value), 1e-2) for name, value in right.items()), 5e-3),
        Number('cosine similarity of the features (noise was added to the weights)', found['stage4/cosine_similarity'],
               1 - 1e-6)], {}


def trainings(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Train VOC's FT and DAFT, and the same without a constructor of ours, on made images in VOC's layout.

    The memory at the peak is the GPU allocator's, with the workspaces of cuDNN's heuristics; a CPU tells none.
    """
    data, start = made_voc(folder, sizes, sizes.images), made_start(folder, device, sizes)
    numbers, peaks = [], {}
    for name, config in (('stock', FT_VOC), ('FT', FT_VOC), ('DAFT', DAFT_VOC)):
        cfg = voc_config(config, folder / name, data, start, sizes, sizes.crop, sizes.batch, sizes.iterations)
        asked = dict(cfg.optim_wrapper.paramwise_cfg)
        if name == 'stock':
            for key in ('constructor', 'paramwise_cfg'):
                cfg.optim_wrapper.pop(key)
            cfg.optim_wrapper.optimizer.lr = asked['head_lr']
            asked = dict(lr=asked['head_lr'])
        found = []
        occupied = _fresh_memory(device)
        runner = train(cfg, lambda runner, batch, found=found: found.append(runner.optim_wrapper.get_lr()))
        peaks[name] = _peak_memory(device) - occupied
        power, end = cfg.param_scheduler[0]['power'], cfg.param_scheduler[0]['end']
        off = [abs(rate / (asked[group] * (1 - i / end) ** power) - 1) for i, rates in enumerate(found)
               for group in asked for rate in rates[group]]
        seconds = sorted(runner.message_hub.get_scalar('train/time')._log_history[sizes.iterations // 3:])
        numbers += [Number(f'{name}: losses that are not finite', _not_finite(runner), 0),
                    Number(f'{name}: iterations whose loss was not logged', sizes.iterations - len(_losses(runner)), 0),
                    Number(f'{name}: rates off by, relative', max(off), 1e-6),
                    Number(f'{name}: seconds an iteration, data loading included', seconds[len(seconds) // 2])]
        if name != 'stock' and device.type == 'cuda':
            numbers.append(Number(f'{name}: peak memory over that of stock', peaks[name] / peaks['stock'], 1.02))
    record = runner.message_hub.get_info(RECORD)
    share = record['seconds'] / record['num_images'] * 10582 / (30000 * seconds[len(seconds) // 2])
    numbers.append(Number('conversion by 10,582 images, as a share of 30,000 iterations', share))
    return numbers, {}


def passes(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Measure the conversion's pass, a bare evaluation pass, and what fvcore and PyTorch do."""
    numbers, tables = [], {}
    kinds = [['float32'], ['bfloat16', '--channels-last']][:2 if device.type == 'cuda' else 1]
    for size, (dtype, *layout) in itertools.product(sizes.passes, kinds):
        args = statistics_pass.parse_args([
            '--device', str(device), '--dtype', dtype, *layout, '--size', str(size), '--batch-size', str(sizes.batch),
            '--batches', str(sizes.batches), '--repeats', str(sizes.repeats), '--base-channels',
            str(sizes.base_channels)])
        with cudnn_benchmark():
            table = statistics_pass.compare_passes(args)
        ((_, rows),) = table.items()
        tables |= table
        numbers.append(Number(f'the pass over a bare evaluation pass: {size}², {" ".join((dtype, *layout))}',
                              rows[1]['ratio'], goal=1.05))
        _fresh_memory(device)
    return numbers, tables


def steps(device: torch.device, sizes: Sizes, folder: Path) -> tuple[list[Number], Tables]:
    """Measure the optimizer's step and a whole training iteration, with two groups, one a tensor, and stock's one."""
    args = training.parse_args(['--device', str(device), '--size', str(sizes.crop), '--batch-size', str(sizes.batch),
                                '--base-channels', str(sizes.base_channels)])
    model = statistics_pass.segmentor(sizes.base_channels).to(device)
    ours, keys, _ = rows = measure.compare(training.optimizer_steps(model, True), 3 * sizes.repeats, device)
    with cudnn_benchmark():
        whole = measure.compare(training.iterations(model, args), sizes.repeats, device)
    return [Number('optimizer step, two groups over one a tensor', ours['ratio'] / keys['ratio'], goal=0.5),
            Number('training iteration over stock mmseg', whole[1]['ratio'], goal=1.0)], {
        f'Optimizer step, DeepLabv3+ on ResNet-50, {device}': rows,
        f'Training iteration, {sizes.batch} x {sizes.crop}², {device}': whole}


CHECKS: dict[str, Check] = {check.__name__: check for check in (
    moments, network, distortion, passes, steps, amp, nccl, trainings, resume)}


def trained(backbone: nn.Module, size: int) -> nn.Module:
    """Give a new backbone γ and β of its own, and the running statistics of images of noise."""
    generator = torch.Generator().manual_seed(0)
    layers = find_batch_norms(backbone, '').values()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.weight.data.copy_(0.8 + 0.4 * torch.rand(layer.num_features, generator=generator))
        layer.bias.data.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
        layer.reset_running_stats()
        layer.momentum = None  # a mean over what it sees
    device = next(backbone.parameters()).device
    backbone.train()
    with torch.no_grad():
        for _ in range(2):
            backbone(torch.randn(4, 3, size, size, generator=generator).mul(0.8).add(0.3).to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return backbone


def made_voc(folder: Path, sizes: Sizes, images: int) -> Path:
    """Write so many training images of each part of VOC, and four for validation, in its layout."""
    (folder / 'voc').mkdir()
    return write_voc(folder / 'voc', images, images, 4, sizes.image_size)


def made_start(folder: Path, device: torch.device, sizes: Sizes) -> Path:
    """Write the weights that VOC's configs start from, in the layout of MoCo's file."""
    cfg = Config.fromfile(CONFIGS / FT_VOC).model
    if sizes.base_channels != 64:
        slim_down(cfg)
    cfg.backbone.update(init_cfg=None, norm_cfg=dict(type='BN'))
    backbone = MODELS.build(dict(cfg.backbone, _scope_='mmseg'))
    backbone.init_weights()
    state = trained(backbone.to(device), sizes.small_crop).state_dict()
    path = folder / 'moco.pth.tar'
    torch.save({'state_dict': {f'module.encoder_q.{name}': tensor.cpu() for name, tensor in state.items()}}, path)
    return path


_number = itertools.count()


def voc_config(
    config: str, work_dir: Path, data: Path, start: Path, sizes: Sizes, crop: int, batch: int, iterations: int,
) -> Config:
    """Read one of VOC's configs, and name made data, made weights and sizes in it; all else stays."""
    cfg = Config.fromfile(CONFIGS / config)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = f'{work_dir.name}_{next(_number)}'  # MMEngine keeps one each
    cfg.randomness = dict(seed=0)
    cfg.env_cfg.cudnn_benchmark = False
    if sizes.base_channels != 64:
        slim_down(cfg.model)
    cfg.model.backbone.init_cfg.checkpoint = str(start)
    cfg.model.data_preprocessor.size = (crop, crop)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=sizes.workers, persistent_workers=sizes.workers > 0)
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.data_root = str(data)
            for transform in dataset.pipeline:
                if transform['type'] == 'RandomCrop':
                    transform['crop_size'] = (crop, crop)
    cfg.train_dataloader.batch_size = cfg.default_hooks.batch.images = batch
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.checkpoint.interval = iterations
    cfg.default_hooks.logger.interval = 1
    return cfg


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let convolutions round to TF32 on a GPU, or not; the networks here have no matrix product."""
    conv = getattr(torch.backends.cudnn, 'conv', None)  # torch >= 2.9, which refuses to mix it with the older switch
    switch, name, value = (conv, 'fp32_precision', 'tf32' if on else 'ieee') if conv is not None else (
        torch.backends.cudnn, 'allow_tf32', on)
    before = getattr(switch, name)
    setattr(switch, name, value)
    try:
        yield
    finally:
        setattr(switch, name, before)


@contextmanager
def cudnn_benchmark() -> Iterator[None]:
    """Let cuDNN try its algorithms, as the configs' trainings do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def deterministic() -> Iterator[None]:
    """Take back what MMEngine's `randomness=dict(deterministic=True)` sets."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic = before[1]


@contextmanager
def process_group(device: torch.device, folder: Path) -> Iterator[None]:
    """Make a process group of this process alone; without a network, over the loopback interface."""
    names = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', NCCL_SOCKET_IFNAME='lo', GLOO_SOCKET_IFNAME='lo')
    with patch.dict(os.environ, names):
        if device.type == 'cuda':
            torch.cuda.set_device(0)
        dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', init_method=f'file://{folder}/rendezvous',
                                rank=0, world_size=1)
        try:
            yield
        finally:
            gc.collect()
            dist.destroy_process_group()


def _collect(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, LayerStatistics]:
    return collect_statistics(model, find_batch_norms(model, ''), batches, model)


def _largest(before: float, errors: Tensor) -> float:
    largest = float(errors.max())
    return max(before, largest) if math.isfinite(largest) else math.nan


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _losses(runner: Runner) -> list[float]:
    return runner.message_hub.get_scalar('train/loss')._log_history.tolist()


def _not_finite(runner: Runner) -> int:
    return sum(not math.isfinite(loss) for loss in _losses(runner))


def _tensors(value: Any, path: str = '') -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f'{path}/{key}')


def _different(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> int:
    return len(one.keys() ^ other.keys()) + sum(not torch.equal(one[name], other[name])
                                                for name in one.keys() & other.keys())


def _fresh_memory(device: torch.device) -> int:
    """Free what is unused, begin a new peak, and return what is in use."""
    gc.collect()
    if device.type != 'cuda':
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else 0
