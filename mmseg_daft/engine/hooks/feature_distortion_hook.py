"""An MMEngine hook that follows, during training, how far the features have moved from the pre-trained ones."""

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mmseg_daft.core.arguments import NAMES, check_modules, optional, refuse_second, several, takes, whole
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.distortion import layer_tensors, relative_change, statistics_drift
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.engine.checkpoints import pretrained_model
from mmseg_daft.engine.convert_model import CONVERTED, RECORD
from mmseg_daft.engine.feature_reference import FeatureReference, fixed_samples

ORIGIN = 'feature_distortion'
"""Where a checkpoint keeps what a resumed run needs: the ``load_from`` it began with, a fingerprint of the features."""


@HOOKS.register_module()
@takes(interval=whole(1), num_images=whole(1), max_bytes=whole(1), modules=NAMES,
       stages=optional(several(whole(1), 'the number of a stage, counted from 1, or a list of such')))
class FeatureDistortionHook(Hook):
    """Write the distortion of the features, and the change of the parameters, into the run's visualizer.

    Every ``interval`` iterations the model sees a few fixed validation images in eval mode, and cosine similarity,
    L2 distance and linear CKA to the pre-trained features become scalars ``distortion/stage4/…``. Beside them,
    ``distortion/change/…`` are the relative changes since training began (Eq. 6 of Ha, Jeong, Lee, AAAI 2024), medians
    over layers, and ``distortion/drift/…`` how far the running statistics moved. In a config::

        custom_hooks = [dict(type='BNConversionHook'), dict(type='FeatureDistortionHook')]

    The training computes, bit for bit, what it would compute without this hook. A resumed run is compared with the
    pre-trained model, too, which is built again for it. The first process does all. A measurement costs about half an
    iteration, 0.1 % of the training at the default interval (CPU, ``benchmarks/README.md``); each run's log states its
    own share.

    Args:
        interval: Iterations between two measurements; there is one more at the end.
        num_images: How many images.
        stages: Of the backbone, counted from 1 as its layers' names do: ``layer4`` is 4, timm's ``blocks.6`` is 7.
            ``None`` for the last that it returns.
        max_bytes: What images and features (in half precision) may take, in memory of the model's device and the CPU.
        modules: The submodules whose parameters are compared.

    Raises:
        ValueError: At once: an argument makes no sense. In ``before_run``: a module is unknown, or there is a second
            such hook. In ``before_train``: there is no validation data, a stage is unknown, or the budget is too small.
        RuntimeError: A resumed run's pre-trained model is no longer the one that it began with.
    """

    priority = 'VERY_LOW'  # after the conversion, and after hooks that change the weights in an iteration

    def __init__(
        self,
        interval: int = 500,
        num_images: int = 8,
        stages: Sequence[int] | None = None,
        max_bytes: int = 512 * 2**20,
        modules: Sequence[str] = ('backbone',),
    ) -> None:
        self.interval, self.num_images, self.max_bytes = interval, num_images, max_bytes
        self.stages = (stages,) if isinstance(stages, int) else stages
        self.modules = (modules,) if isinstance(modules, str) else tuple(modules)

    def before_run(self, runner: Runner) -> None:
        """Find the modules, before anything takes long."""
        refuse_second(self, runner.hooks, 'both would write the same curves: keep one.')
        model = _unwrapped(runner)
        check_modules(model, self.modules)
        if not any(layer_tensors(model, self.modules)):
            raise ValueError(f'FeatureDistortionHook(modules={self.modules!r}): there is no convolution and no batch '
                             'norm in them, so nothing would be compared. Name others, such as backbone.')

    def before_train(self, runner: Runner) -> None:
        """Keep the pre-trained model's features and parameters."""
        self._seconds, self._start = 0.0, time.perf_counter()
        start = None
        if runner.iter > 0:  # in every process: MMEngine's downloads wait for all
            with preserved_random_state():
                origin = runner.message_hub.get_info(ORIGIN) or {}
                start = pretrained_model(runner.cfg, origin.get('load_from'))
        if not is_main_process():
            return
        model = _unwrapped(runner)
        if runner.val_loop is None:
            raise ValueError('FeatureDistortionHook looks at validation images: set val_dataloader, val_cfg and '
                             'val_evaluator, or leave the hook out.')
        with preserved_random_state():
            samples = fixed_samples(runner.val_dataloader.dataset, self.num_images)
            if runner.iter == 0:
                self.keep(model, samples, {})
                origin = dict(load_from=runner._load_from, fingerprint=self.reference.fingerprint())
                runner.message_hub.update_info(ORIGIN, origin)
            else:
                self._keep_again(runner, start.to(next(model.parameters()).device), samples)
        self._seconds = time.perf_counter() - self._start
        runner.logger.info(
            f'Feature distortion: {len(samples)} validation images at the stages {", ".join(self.reference.places)}, '
            f'every {self.interval} iterations; {self.reference.nbytes / 2**20:.0f} MiB of images and features, '
            f'{sum(t.numel() * t.element_size() for t in self.before.values()) / 2**20:.0f} MiB of parameters')

    def keep(self, model: Any, samples: Sequence[dict[str, Any]], converted: Mapping[str, Tensor]) -> None:
        """Keep what is compared with: the features, and the tensors, of the model that training begins with.

        Args:
            model: The pre-trained model, without a distributed wrapper.
            samples: The images to measure on.
            converted: The conversion's tensors, which the model is given first; empty if it has them already.
        """
        if converted:  # AdaBN's change the features, too
            model.load_state_dict(converted, strict=False)
        self.reference = FeatureReference(model, samples, self.stages, self.max_bytes)
        self.tensors = list(layer_tensors(model, self.modules))
        state = model.state_dict()
        self.before = {t.name: state[t.name].detach().cpu().clone() for t in self.tensors}
        self.layers = {name: layer for name, layer in model.named_modules()
                       if isinstance(layer, BatchNorm) and f'{name}.running_mean' in self.before}

    def _keep_again(self, runner: Runner, model: Any, samples: Sequence[dict[str, Any]]) -> None:
        """Take all from the pre-trained model, which is not the one that is being trained."""
        hub = runner.message_hub
        if hub.get_info(RECORD) and hub.get_info(CONVERTED) is None:
            raise RuntimeError('This run was converted by a version that kept no tensors of it, so its changes cannot '
                               'be measured. Leave FeatureDistortionHook out to go on.')
        self.keep(model, samples, hub.get_info(CONVERTED) or {})
        mine = self.reference.fingerprint()
        for number, before in (hub.get_info(ORIGIN) or {}).get('fingerprint', {}).items():
            if (stage := str(number)) in mine and len(before) == len(mine[stage]):
                a, b = torch.tensor(before), torch.tensor(mine[stage])
                if not torch.allclose(a, b, rtol=2e-2, atol=1e-2 * float(a.abs().max())):
                    raise RuntimeError(
                        'The pre-trained model that this run began with cannot be built again: its file or the '
                        'validation images changed, or it began from random weights. Put the file back, or leave '
                        'FeatureDistortionHook out to go on.')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None,
    ) -> None:
        """Measure, every so many iterations and after the last."""
        last = runner.iter + 1 == runner.max_iters
        if is_main_process() and (self.every_n_train_iters(runner, self.interval) or last):
            begin = time.perf_counter()
            with preserved_random_state():
                scalars = self.measure(_unwrapped(runner))
            self._seconds += time.perf_counter() - begin
            runner.visualizer.add_scalars({f'distortion/{k}': v for k, v in scalars.items()}, step=runner.iter + 1)
            deepest = list(self.reference.places)[-1]
            stage = f'stage{deepest}'
            runner.logger.info(
                f'Feature distortion at {runner.iter + 1}: stage {deepest} cosine similarity '
                f'{scalars[f"{stage}/cosine_similarity"]:.4f}, L2 distance {scalars[f"{stage}/l2_distance"]:.4f}, '
                f'CKA {scalars[f"{stage}/cka"]:.4f}; measuring took {self._seconds:.1f} s, '
                f'{self._seconds / (time.perf_counter() - self._start):.1%} of the training')

    def measure(self, model: Any) -> dict[str, float]:
        """Return all scalars of a model, without a distributed wrapper."""
        scalars = self.reference.compare(model)
        after = model.state_dict()
        changes: dict[str, list[float]] = {}
        for tensor in self.tensors:
            change = relative_change(self.before[tensor.name], after[tensor.name])
            if math.isfinite(change):
                changes.setdefault(tensor.kind, []).append(change)
        scalars.update({f'change/{kind}': _median(values) for kind, values in changes.items()})
        drifts = [statistics_drift(name, self.before, after, layer.eps) for name, layer in self.layers.items()]
        if drifts:
            scalars['drift/bn_mean'] = fmean(drift.mean_shift for drift in drifts)
            scalars['drift/bn_log_variance'] = fmean(drift.log_var_ratio for drift in drifts)
        return scalars


def _unwrapped(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())
