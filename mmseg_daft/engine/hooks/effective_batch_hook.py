"""An MMEngine hook that compares a run's effective batch with the one that its rates are meant for."""

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_daft.core.arguments import takes, whole


@HOOKS.register_module()
@takes(images=whole(1))
class EffectiveBatchHook(Hook):
    """Warn at the start of a run if an optimizer step is over more or fewer images than intended.

    mmseg's configs state a batch size per GPU, so the same config is another experiment on another number
    of GPUs (mmseg issues 179, 730, 3023).

    Args:
        images: How many images an optimizer step is meant to be over: GPUs x batch size per GPU x accumulated steps.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def before_train(self, runner: Runner) -> None:
        """Compare, and warn once."""
        loader = runner.train_dataloader
        per_gpu = loader.batch_size or loader.batch_sampler.batch_size
        gpus = get_world_size()
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        batch = per_gpu * gpus * accumulated
        if batch == self.images:
            return
        line = '=' * 100
        runner.logger.warning(
            f'\n{line}\nEFFECTIVE BATCH {batch}, NOT {self.images}: {per_gpu} images per GPU x {gpus} GPUs x '
            f'{accumulated} accumulated. The learning rates\nare meant for {self.images}, and results will not compare '
            f'with those of {self.images}. Use {batch_fix(self.images, gpus, accumulated)},\n'
            f'or EffectiveBatchHook(images={batch}) if it is meant.\n{line}')


def batch_fix(images: int, gpus: int, accumulated: int) -> str:
    """Say what makes an optimizer step be over so many images, with so many accumulated iterations."""
    steps = gpus * accumulated
    if images % steps == 0:
        return f'train_dataloader.batch_size={images // steps}'
    return f'a number of GPUs{" times accumulated iterations" if accumulated > 1 else ""} that divides {images}'
