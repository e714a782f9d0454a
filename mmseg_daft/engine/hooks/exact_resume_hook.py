"""An MMEngine hook with which a run that is killed at any moment and resumed ends as if nothing had happened."""

from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import barrier, get_dist_info, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmseg_daft.core.arguments import takes
from mmseg_daft.core.random_state import seed_everything_by
from mmseg_daft.engine.checkpoints import BACKEND, is_training
from mmseg_daft.engine.repeatability import refuse_unrepeatable
from mmseg_daft.engine.samples import SeededSamples
from mmseg_daft.files import mend_last_checkpoint

RECORD = 'exact_resume'
"""Where a checkpoint keeps what the stream of samples depends on: in ``message_hub``'s ``runtime_info``."""
_ITERATION = 1  # apart from samples' seeds, which have two numbers


@HOOKS.register_module()
@takes()
class ExactResumeHook(Hook):
    """Make ``--resume`` exact to the bit, safe against ``kill -9``, and as cheap after 100,000 iterations as after one.

    MMEngine saves no random state: after a resume dropout and augmentation differ, and to find its place in the data
    it runs the pipeline of every sample that was seen (MMEngine issue 1520). This hook keeps no state either. It makes
    randomness a function of the place in the training instead: each sample's pipeline runs under a seed made of the
    run's seed and the sample's place in the sequence, each iteration (dropout) under one made of seed, iteration and
    rank. Checkpoints are written atomically. In a config::

        custom_hooks = [dict(type='BNConversionHook'), dict(type='ExactResumeHook')]

    The order of samples is MMEngine's. Loops of iterations and of epochs go on anywhere, also in the midst of an
    epoch. With deterministic kernels (``randomness=dict(seed=0, deterministic=True)``) the weights, the optimizer
    and the schedules end equal to the bit; on other ones as equal as two runs ever are.
    On a GPU, models with matrix products need ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` for that. The number of loader
    workers may change between start and resume. A validation in the midst that was cut off is not made up for; the
    final one is, by ``FinalEvaluationHook``. Where batch norm is not synchronized, a checkpoint holds the first rank's
    running statistics: a resumed rank validates with these until it has its own again.

    Raises:
        ValueError: In ``before_train``: the loop or the sampler is not one that can be continued at any place, the
            checkpoint settings would lose the only checkpoint, or gradients in the midst of an accumulation, or a
            transform draws from a source that no seed reaches.
        RuntimeError: In ``before_train``: the run began without this hook, or on other ranks, batches or data.
    """

    priority = 'VERY_HIGH'  # iterations are seeded before other hooks draw

    def before_run(self, runner: Runner) -> None:
        """Before MMEngine looks, make ``last_checkpoint`` name one that is whole."""
        if runner._resume and is_training(runner) and is_main_process():
            problem = mend_last_checkpoint(Path(runner.work_dir), _checkpoint_folder(runner))
            if problem:
                runner.logger.warning(f'Exact resume: {problem}.')
        barrier()

    def before_train(self, runner: Runner) -> None:
        """Let the loop take its batches from a stream that starts where the run was."""
        loop = runner.train_loop
        if not isinstance(loop, (IterBasedTrainLoop, EpochBasedTrainLoop)):
            raise ValueError(f'ExactResumeHook continues an IterBasedTrainLoop or an EpochBasedTrainLoop, not a '
                             f'{type(loop).__name__}: set train_cfg.type to one of these, or leave the hook out.')
        for hook in _checkpoint_hooks(runner):
            self._make_safe(runner, hook)
        loader = loop.dataloader
        if runner.iter == 0:
            refuse_unrepeatable(loader.dataset, runner.seed or 0)
        now = dict(seed=getattr(loader.sampler, 'seed', None), batch_size=loader.batch_size,
                   world_size=get_dist_info()[1], num_samples=len(loader.dataset))
        if runner.iter > 0:
            now = self._continued(runner, now)
        if isinstance(loop, EpochBasedTrainLoop):
            loop.dataloader = EpochStream(loader, now['seed'], loop)
        else:
            loop.dataloader_iterator = sample_stream(loader, now['seed'], skip=runner.iter)
        loader._iterator = None  # ends persistent workers, which MMEngine started before any hook ran
        runner.message_hub.update_info(RECORD, now)
        self._seed, self._rank = now['seed'], get_dist_info()[0]
        if runner.iter > 0:
            runner.logger.info(f'Exact resume: goes on at iteration {runner.iter}; the steps that MMEngine says it '
                               'advances now cost nothing.')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what this iteration draws."""
        seed_everything_by(self._seed, runner.iter, self._rank, _ITERATION)

    def _make_safe(self, runner: Runner, hook: CheckpointHook) -> None:
        if hook.max_keep_ckpts == 1:
            raise ValueError('default_hooks.checkpoint.max_keep_ckpts=1 removes the only checkpoint before the next '
                             'one is written; a run that is killed between has none. Use max_keep_ckpts=2.')
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        moments = [] if hook.by_epoch else [('default_hooks.checkpoint.interval', hook.interval),
                                            ('default_hooks.checkpoint.save_begin', hook.save_begin)]
        if hook.save_best and runner.val_loop and not epochs:  # a better model is saved with all of the state
            moments += [('train_cfg.val_interval', interval) for interval in runner.train_loop.dynamic_intervals]
        if epochs and (hook.by_epoch or hook.save_best):
            moments += [('len(train_dataloader)', len(runner.train_dataloader))]
        for name, iterations in moments:
            if iterations > 0 and iterations % accumulated:
                raise ValueError(
                    f'{name}={iterations} falls between the {accumulated} mini-batches over which gradients are '
                    f'accumulated, which no checkpoint holds. Use a multiple of {accumulated}.')
        place = str(hook.out_dir or runner.work_dir)
        if hook.backend_args is None and hook.file_client_args is None and '://' not in place:
            hook.backend_args = dict(backend=BACKEND)

    def _continued(self, runner: Runner, now: dict[str, Any]) -> dict[str, Any]:
        before = runner.message_hub.get_info(RECORD)
        if before is None:
            raise RuntimeError(
                f'This run was trained for {runner.iter} iterations without ExactResumeHook, so it cannot go on '
                'exactly. Leave the hook out to go on as it was, or start a new run in another work_dir.')
        differs = [f'{name} was {before[name]} and is {now[name]}' for name in now
                   if name != 'seed' and before[name] != now[name]]
        if differs:
            raise RuntimeError(
                f'This run cannot go on exactly: {", ".join(differs)}. Resume it as it was started, or leave '
                'ExactResumeHook out.')
        return dict(before)  # without a seed in the config the sampler has drawn a new one


def _checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _checkpoint_folder(runner: Runner) -> Path:
    """Where MMEngine will put checkpoints: it appends the run's name to an ``out_dir`` of one's own."""
    work_dir = Path(runner.work_dir)
    places = [hook.out_dir for hook in _checkpoint_hooks(runner) if hook.out_dir]
    return Path(places[0]) / work_dir.name if places and Path(places[0]) != work_dir else work_dir


def sample_stream(loader: DataLoader, seed: int, skip: int = 0) -> Iterator[Any]:
    """Return mini-batches in the order that mmengine's ``InfiniteSampler`` gives with the same seed.

    Each sample's augmentation is a function of the seed and of the sample's place in the endless sequence, so the
    stream can start anywhere. Its first ``skip`` items are ``None`` and cost nothing: MMEngine's loop asks for the
    batches that a resumed run has seen, and drops them.

    Args:
        loader: The training loader, read for its data set, batch size, workers and collation.
        seed: Of order and augmentation; the same on all ranks.
        skip: How many batches of this rank were seen.

    Raises:
        ValueError: The loader's batches are not those of an ``InfiniteSampler``.
    """
    _refuse_unknown_order(loader, InfiniteSampler)
    rank, world_size = get_dist_info()
    seen = skip * loader.batch_size
    indices = islice(InfiniteSampler(loader.dataset, loader.sampler.shuffle, seed), seen, None)
    batches = DataLoader(
        SeededSamples(loader.dataset, seed),
        sampler=(((seen + i) * world_size + rank, index) for i, index in enumerate(indices)),
        **_settings(loader))
    return _Stream(repeat(None, skip), batches)  # its workers start with the first batch


class _Stream(chain):
    def skip_iter(self, num_iters: int) -> None:
        """Drop batches, at once: onedl-mmengine's loop calls this, and MMEngine's takes them one by one."""
        for _ in islice(self, num_iters):
            pass


class EpochStream(DataLoader):
    """The training loader of a loop of epochs, with ``sample_stream``'s samples, in the order of a ``DefaultSampler``.

    The epoch in which the training is when this is made starts behind the mini-batches that it has seen.

    Args:
        loader: The training loader.
        seed: Of order and augmentation; the same on all ranks.
        loop: The training loop, which knows the epoch.

    Raises:
        ValueError: The loader's batches are not those of a ``DefaultSampler``.
    """

    def __init__(self, loader: DataLoader, seed: int, loop: EpochBasedTrainLoop) -> None:
        _refuse_unknown_order(loader, DefaultSampler)
        loader.sampler.seed = seed  # without one in the config, each process draws its own
        settings = dict(_settings(loader), drop_last=loader.drop_last, persistent_workers=loader.persistent_workers)
        super().__init__(loader.dataset, sampler=loader.sampler, **settings)
        self._samples = DataLoader(
            SeededSamples(loader.dataset, seed), sampler=_Places(loader.sampler, loop, loader.batch_size), **settings)

    def __iter__(self) -> Iterator[Any]:
        """Return the mini-batches of the loop's epoch."""
        return iter(self._samples)


class _Places(Sampler):
    """The samples of an epoch, each with its place in the whole training."""

    def __init__(self, sampler: DefaultSampler, loop: EpochBasedTrainLoop, batch_size: int) -> None:
        self.sampler, self.loop = sampler, loop
        seen = loop.iter - loop.epoch * len(loop.dataloader)
        self.first = loop.epoch * len(sampler) + min(seen * batch_size, len(sampler))

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world_size = get_dist_info()
        for number, index in enumerate(self.sampler, self.loop.epoch * len(self.sampler)):
            if number >= self.first:
                yield number * world_size + rank, index


def _refuse_unknown_order(loader: DataLoader, sampler: type) -> None:
    if not isinstance(loader.sampler, sampler) or type(loader.batch_sampler) is not BatchSampler:
        raise ValueError(
            f'train_dataloader draws its samples by {type(loader.sampler).__name__}, and its order after a resume is '
            f"unknown. Use sampler=dict(type='{sampler.__name__}', shuffle=True) without a batch_sampler, as configs "
            f'that count {"iterations" if sampler is InfiniteSampler else "epochs"} do.')


def _settings(loader: DataLoader) -> dict[str, Any]:
    return {name: getattr(loader, name) for name in (
        'batch_size', 'num_workers', 'prefetch_factor', 'collate_fn', 'pin_memory', 'timeout',
        'multiprocessing_context', 'worker_init_fn')}
