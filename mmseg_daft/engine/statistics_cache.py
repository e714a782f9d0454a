"""Compute target statistics once per sweep: a pass whose fingerprint is known is read from a file instead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from logging import Logger
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from torch import Tensor
from torch.utils.data import DataLoader

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.statistics import LayerStatistics
from mmseg_daft.engine.conversion_pass import PassResult, PassSettings, first_batch, run_pass
from mmseg_daft.engine.model_forward import ModelForward
from mmseg_daft.engine.pass_fingerprint import digest, pass_fingerprint
from mmseg_daft.engine.statistics_file import StoredPass, read_fingerprint, read_statistics, write_statistics


def cached_pass(
    cache_dir: Path,
    logger: Logger,
    forward: ModelForward,
    layers: dict[str, BatchNorm],
    dataloader: DataLoader,
    settings: PassSettings,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> PassResult:
    """Return what ``run_pass`` would, from a file in ``cache_dir`` if there is one for this very pass.

    There is a file for each fingerprint. Rank 0 alone reads and writes; what it read goes to the other ranks. A file
    that is damaged, or a folder that cannot be written, costs a pass and a line in the log, no more.

    Args:
        cache_dir: Where the files are; made if need be.
        logger: Says whether the pass was known, and if not, what differs from the nearest that is.
        forward: This and the rest as of ``run_pass``.
    """
    path, fingerprint, found = None, None, [None]
    if is_main_process():
        try:
            fingerprint = pass_fingerprint(forward, layers, dataloader, settings, precision)
            path = cache_dir / f'bn-statistics-{digest(fingerprint)}.safetensors'
            found = [_look_up(path, fingerprint, layers, logger)]
        except Exception as error:  # whatever it is, the other ranks wait, and a pass can be made
            logger.warning(f'BN statistics: not kept in {cache_dir}, as {error}.')
    broadcast_object_list(found)
    if found[0] is None:
        result = run_pass(forward, layers, dataloader, settings, precision)
        if path is not None and fingerprint is not None:
            _keep(path, result, fingerprint, logger)
        return result
    statistics = {name: _on_device(found[0].statistics[name], layer) for name, layer in layers.items()}
    sample = first_batch(forward, dataloader, settings)
    return PassResult(statistics, sample, found[0].num_batches, found[0].all_batches, found[0].num_images)


def _look_up(
    path: Path, fingerprint: dict[str, str], layers: dict[str, BatchNorm], logger: Logger,
) -> StoredPass | None:
    if path.is_file():
        try:
            stored = read_statistics(path)
            if list(stored.statistics) != list(layers):
                raise ValueError(f'{path} is damaged (it is about other layers)')
        except (ValueError, OSError) as error:
            logger.warning(f'BN statistics: {error}; they are computed anew.')
            return None
        logger.info(f'BN statistics: read from {path}.')
        return stored
    others = [other for other in map(read_fingerprint, path.parent.glob('bn-statistics-*.safetensors')) if other]
    if others:
        differences = [sorted(part for part in {*fingerprint, *other} if fingerprint.get(part) != other.get(part))
                       for other in others]
        nearest = min(differences, key=len)
        reason = f'none of the {len(others)} in {path.parent} is of this pass; the nearest differs in: ' \
                 f'{", ".join(nearest)}'
        if nearest == ['seed']:
            reason += ' (it shuffles and augments; with randomness=dict(seed=...) in the config all runs have the same)'
    else:
        reason = f'there are none in {path.parent} yet'
    logger.info(f'BN statistics: {reason}.')
    return None


def _keep(path: Path, result: PassResult, fingerprint: dict[str, str], logger: Logger) -> None:
    try:
        write_statistics(path, StoredPass(
            result.statistics, result.num_batches, result.all_batches, result.num_images), fingerprint)
    except OSError as error:
        logger.warning(f'BN statistics: not written to {path} ({error}); the run goes on.')
    else:
        logger.info(f'BN statistics: written to {path}.')


def _on_device(statistics: LayerStatistics, layer: BatchNorm) -> LayerStatistics:
    device = layer.running_mean.device
    return replace(statistics, **{name: value.to(device) for name, value in vars(statistics).items()
                                  if isinstance(value, Tensor)})
