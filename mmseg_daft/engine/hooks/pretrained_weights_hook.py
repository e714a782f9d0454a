"""An MMEngine hook that stops a training whose pre-trained weights did not match."""

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.arguments import number, takes
from mmseg_daft.engine.checkpoints import is_training, settle_start
from mmseg_daft.engine.pretrained_weights import match_file, pretrained_starts, self_loaded


@HOOKS.register_module()
@takes(min_share=number(lambda share: 0 <= share <= 1, 'a number from 0 to 1'))
class PretrainedWeightsHook(Hook):
    """Refuse to train from weights that fill too little of the model.

    Where names or shapes in a checkpoint do not match, MMEngine warns and trains from random weights
    (mmdet issue 5284), and where a prefix matches nothing, it does not say what would. This hook looks at
    every ``init_cfg=dict(type='Pretrained', …)`` and at ``load_from``, of which the backbone has to match
    (a head for other classes may not). A resumed run is left alone, and so is a module that reads its file
    by code of its own, which may translate names (mmseg's Swin); of one that has read it while it was built
    (timm's), the batch norm has to be that of a trained network. In a config::

        default_hooks = dict(pretrained=dict(type='PretrainedWeightsHook'))

    Args:
        min_share: The share of tensors that have to match, from 0 to 1; the counters
            ``num_batches_tracked`` are left out. Running statistics of batch norm all have to match.

    Raises:
        ValueError: In ``before_run``: less matches; the message lists what does not.
    """

    priority = 'ABOVE_NORMAL'

    def __init__(self, min_share: float = 0.95) -> None:
        self.min_share = min_share

    def before_run(self, runner: Runner) -> None:
        """Check, before MMEngine loads anything, unless the run is resumed or no training."""
        settle_start(runner)
        resumes = runner._resume and (runner._load_from or Path(runner.work_dir, 'last_checkpoint').is_file())
        if resumes or not is_training(runner):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if runner._load_from:
            state, part = model.state_dict(), 'backbone.'
            state = {name: tensor for name, tensor in state.items() if name.startswith(part)} or state
            checks = [(f'load_from={runner._load_from!r}', match_file(state, runner._load_from))]
        else:
            checks = [(f'The pre-trained weights of {start.name or "the model"} from {start.checkpoint!r}'
                       + (f' with prefix={start.prefix!r}' if start.prefix else ''), start.match())
                      for start in pretrained_starts(model) if not start.own_loading]
            for name, problem in self_loaded(model).items():
                if problem:
                    raise ValueError(f'{name} loads its weights itself when it is built: {problem}.')
        for what, match in checks:
            problem = match.problem(self.min_share)
            if problem:
                raise ValueError(f'{what} do not match: {problem} MMEngine would only warn, and train the rest from '
                                 'random weights. PretrainedWeightsHook(min_share=...) sets how much has to match.')
            runner.logger.info(f'{what}: {len(match.matched)} tensors match ({match.share:.0%}).')
