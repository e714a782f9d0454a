"""MMEngine hooks that pull the weights towards those that training started from: L2-SP and SPD."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from mmseg_daft.core.arguments import NAMES, POSITIVE, check_modules, inside, takes
from mmseg_daft.core.start_penalty import SelectiveProjection, add_l2_sp

START = 'start_penalty'
"""Where a checkpoint keeps the weights of the start, by name."""


class _StartPenaltyHook(Hook):
    """What both have in common: the start's weights, and a place in each step of any optimizer.

    The start is what the first iteration begins with: after a conversion, the converted weights. Checkpoints hold it,
    so that a resumed run is pulled to the same. The optimizer's own weight decay pulls to zero, and is 0 for what is
    pulled. Gradients are those that the optimizer sees: accumulated, unscaled and clipped.
    """

    priority = 'LOW'  # after the conversion

    def __init__(self, strength: float, modules: Sequence[str] = ('backbone',)) -> None:
        self.strength = strength
        self.modules = (modules,) if isinstance(modules, str) else tuple(modules)
        self.start: dict[str, Tensor] | None = None

    def before_run(self, runner: Runner) -> None:
        """Find the modules, before anything takes long."""
        if sum(isinstance(hook, _StartPenaltyHook) for hook in runner.hooks) > 1:
            raise ValueError('There are two hooks of L2SPHook and SPDHook, and both would pull: keep one, and list all '
                             'modules in it.')
        check_modules(_unwrapped(runner), self.modules)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the start of a run that is resumed."""
        if runner._resume:
            self.start = checkpoint.get(START)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the start in the checkpoint."""
        checkpoint[START] = {name: tensor.cpu() for name, tensor in self.start.items()}

    def before_train(self, runner: Runner) -> None:
        """Take the start, and a place before and after each step of the optimizer."""
        named = {name: p for name, p in _unwrapped(runner).named_parameters()
                 if p.requires_grad and inside(name, self.modules)}
        optimizer = self._optimizer(runner, named)
        if runner.iter == 0:
            self.start = {name: p.detach().clone() for name, p in named.items()}
        elif self.start is None:
            raise RuntimeError(f'This run was trained for {runner.iter} iterations without {type(self).__name__}, and '
                               'its checkpoint does not hold what it started from. Leave the hook out to go on as it '
                               'was, or start a new run in another work_dir.')
        elif self.start.keys() != named.keys():
            raise RuntimeError(f'This run was started with {type(self).__name__} for other parameters: resume it with '
                               'the same modules, and the same layers frozen.')
        origins = [self.start[name].to(p) for name, p in named.items()]
        self.start = dict(zip(named, origins, strict=True))
        self.attach(optimizer, list(named.values()), origins)
        runner.logger.info(f'{type(self).__name__}: {len(named)} tensors are pulled to the start, at strength '
                           f'{self.strength:g}; the optimizer does not decay them.')

    def attach(self, optimizer: Optimizer, parameters: list[Tensor], start: list[Tensor]) -> None:
        """Register what acts before and after each step."""
        raise NotImplementedError

    def _optimizer(self, runner: Runner, named: dict[str, Tensor]) -> Optimizer:
        """Return the optimizer, once its weight decay is 0 for what is pulled."""
        who = type(self).__name__
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            raise ValueError(f'{who} acts on one optimizer with whole parameters: it needs an OptimWrapper or an '
                             f'AmpOptimWrapper, not {type(runner.optim_wrapper).__name__}.')
        if not named:
            raise ValueError(f'{who}(modules={self.modules!r}): no parameter in them is trained, so nothing would be '
                             'pulled. Name others, or leave the hook out.')
        optimizer, pulled = runner.optim_wrapper.optimizer, {id(p) for p in named.values()}
        if optimizer.defaults.get('fused'):
            raise ValueError(f'{who} needs gradients as they are, and a fused optimizer unscales them itself: leave '
                             'out fused=True.')
        for group in optimizer.param_groups:
            inside = [id(p) in pulled for p in group['params']]
            if any(inside) and not all(inside) and group.get('weight_decay'):
                raise ValueError(
                    f'{who} replaces the weight decay of {", ".join(self.modules) or "the model"}, and the parameter '
                    f'group {group.get("name", "")!r} holds other parameters, too. Use '
                    "DAFTOptimWrapperConstructor, with the same backbone_modules, or weight_decay=0.")
            if any(inside) and group.get('weight_decay'):
                group['weight_decay'] = 0.0
        return optimizer


@HOOKS.register_module()
@takes(strength=POSITIVE, modules=NAMES)
class L2SPHook(_StartPenaltyHook):
    """Penalize the distance from the start, α/2 · ‖w - w⁰‖², in place of weight decay (Li et al., ICML 2018).

    In a config::

        custom_hooks = [dict(type='L2SPHook', strength=0.01)]

    The paper's second term, weight decay of the new head, is the optimizer's ``weight_decay``. A checkpoint grows by
    the weights of the start.

    Args:
        strength: α.
        modules: The submodules that are pulled.

    Raises:
        ValueError: At once: an argument makes no sense. In ``before_run``: a module is unknown, or there is a second
            such hook. In ``before_train``: nothing in them is trained, or the optimizer does not fit.
        RuntimeError: In ``before_train``: the run was begun without this hook, or with other modules.
    """

    def attach(self, optimizer: Optimizer, parameters: list[Tensor], start: list[Tensor]) -> None:
        """Add the penalty's gradient before each step."""
        optimizer.register_step_pre_hook(lambda *_: add_l2_sp(parameters, start, self.strength))


@HOOKS.register_module()
@takes(strength=POSITIVE, modules=NAMES)
class SPDHook(_StartPenaltyHook):
    """Selective projection decay, in place of weight decay (Tian, Huang, Kira, NeurIPS 2024).

    Where a tensor's gradient says to go back to the start, and the optimizer's step ends farther from it all the same,
    a share of that is taken back; see ``core.start_penalty``. In a config::

        custom_hooks = [dict(type='SPDHook', strength=1.0)]

    A checkpoint grows by the weights of the start.

    Args:
        strength: λ; with 1 such a step ends as far from the start as it began.
        modules: The submodules that are pulled.

    Raises:
        ValueError, RuntimeError: As ``L2SPHook``.
    """

    def attach(self, optimizer: Optimizer, parameters: list[Tensor], start: list[Tensor]) -> None:
        """Look before each step, and take back after it."""
        def before(*_: Any) -> None:
            self.step = SelectiveProjection(parameters, start)

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(lambda *_: self.step.finish(self.strength))


def _unwrapped(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
