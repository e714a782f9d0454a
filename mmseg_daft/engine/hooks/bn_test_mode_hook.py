"""An MMEngine hook that keeps batch norm in eval mode while the model trains."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.arguments import NAMES, takes
from mmseg_daft.core.batch_norm import find_batch_norms


@HOOKS.register_module()
@takes(modules=NAMES)
class BNTestModeHook(Hook):
    """Let batch-norm layers normalize with their running statistics in every training iteration.

    The second stage of LP-FT has *all* batch norm in eval mode (the paper's test mode), the decoder's too (Kumar et
    al., ICLR 2022; Table 1 of Ha, Jeong, Lee, AAAI 2024): statistics stay as they are, γ and β are trained. mmseg's
    ``norm_eval=True`` does so for a backbone alone. In a config::

        custom_hooks = [dict(type='BNTestModeHook')]

    Args:
        modules: The submodules to look for batch norm in; by default the whole model.

    Raises:
        ValueError: In ``before_train``: a module is misspelt, or there is no batch norm.
    """

    priority = 'LOW'  # after hooks that switch the model's mode

    def __init__(self, modules: Sequence[str] = ('',)) -> None:
        self.modules = (modules,) if isinstance(modules, str) else tuple(modules)

    def before_train(self, runner: Runner) -> None:
        """Find the layers."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.layers = list(find_batch_norms(model, self.modules).values())
        runner.logger.info(f'BN eval mode: {len(self.layers)} batch-norm layers keep their running statistics.')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Put the layers in eval mode: MMEngine calls ``model.train()`` before every iteration."""
        for layer in self.layers:
            layer.eval()
