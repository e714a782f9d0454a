"""Run models over the images of several test sets: all see an image in one reading, and each counts what it told.

Workers read and corrupt images while the models are at work, across the ends of sets, so that neither waits for long.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import broadcast_object_list, gather_object, get_dist_info
from mmengine.model import BaseModel
from mmseg.models import BaseSegmentor
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmseg_daft.analysis.findings import VOID, Scene
from mmseg_daft.analysis.measure import nearest, picture, shown_shape
from mmseg_daft.analysis.runs import LoadedModel, load_run
from mmseg_daft.engine.configs import is_classifier, model_of
from mmseg_daft.evaluation.cells import Cell, LabeledCell, TestData
from mmseg_daft.evaluation.store import Key, cell_path, weights_digest, written_cell


def load_runs(cfg: Config, runs: Mapping[str, Path]) -> dict[str, LoadedModel]:
    """Return the model of each run, in eval mode, on the GPU if there is one.

    Raises:
        ValueError: A run has no checkpoint, or one that is not of the config's model.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    loaded = {name: load_run(cfg, name, path, device) for name, path in runs.items()}
    for name, run in loaded.items():
        if not run.predicts:
            part = 'head' if is_classifier(cfg) else 'decoder'
            raise ValueError(f'{name}={run.source} has no {part} that fits the config\'s model, so it predicts '
                             'nothing. All runs have to be of one architecture and of the same classes.')
    return loaded


def evaluate(
    models: Mapping[str, BaseModel], cells: Sequence[Cell], classes: Sequence[str], folder: Path, cfg: Config,
    workers: int = 4, console: Console | None = None,
) -> dict[tuple[str, Key], Path]:
    """Count what each model tells on each cell's images, and return the files by model and the cell's key.

    What is on disk is not counted again. Several processes share the images; the first one writes.

    Args:
        models: In eval mode, on one device, all of the config's ``model``.
        classes: Their names, in the order of the labels; the models tell as many.
        folder: Holds the files of ``store``.
        workers: Processes that read images, for each process that runs models.
        console: Shows the progress; ``None`` for nothing.

    Raises:
        ValueError: The data do not fit the models or have no labels, before anything is counted; or an image or a label
            cannot be used.
        OSError: A file cannot be written; those before it are kept.
    """
    part = 'head' if is_classifier(cfg) else 'decode_head'
    heads = cfg.model[part]
    told = (heads if isinstance(heads, dict) else heads[-1]).get('num_classes')
    if told != len(classes):
        raise ValueError(f'The model tells {told} classes, but the test set has {len(classes)}: {", ".join(classes)}. '
                         f"Set model.{part}.num_classes, or the data set's metainfo.")
    ignored = [] if is_classifier(cfg) else _ignored(cfg, len(classes))
    digests = {name: weights_digest(model) for name, model in models.items()}
    model = model_of(cfg)
    made_from = {
        (name, cell.key): dict(cell.made_from, classes=list(classes), ignored=ignored, model=model, weights=digest)
        for cell in cells for name, digest in digests.items()}
    files = {which: cell_path(folder, made) for which, made in made_from.items()}
    missing = {path: which for which, path in files.items() if not path.is_file()}  # equal weights are counted once
    agreed = [list(missing.values())]
    broadcast_object_list(agreed)
    jobs = [_Job(cell, [name for name in models if (name, cell.key) in agreed[0]]) for cell in cells]
    jobs = [job for job in jobs if job.names]
    if not jobs:
        return files
    deterministic, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        counted = _blocks(jobs, models, len(classes), ignored, workers, console)
        for job in jobs:
            with ExitStack() as stack:
                which = [(name, job.cell.key) for name in job.names if get_dist_info()[0] == 0]
                writers = [stack.enter_context(written_cell(files[each], made_from[each])) for each in which]
                for _ in job.cell.blocks():
                    for write, rows in zip(writers, next(counted), strict=True):
                        write(rows)
        next(counted, None)  # to the end of the bar
    finally:
        torch.backends.cudnn.deterministic = deterministic
    return files


class _Job(NamedTuple):
    """A cell, and the models that are to see it."""

    cell: Cell
    names: Sequence[str]


def _ignored(cfg: Config, classes: int) -> list[int]:
    """Return the labels that do not count: what the config's ``IoUMetric`` ignores, and 255 where that is no class."""
    metrics = cfg.get('test_evaluator') or {}
    metrics = [metrics] if isinstance(metrics, dict) else metrics
    return sorted({255} - {*range(classes)} | {metric.get('ignore_index', 255) for metric in metrics})


def sample_loader(cells: Sequence[Cell], places: Iterable[tuple[int, int]], workers: int) -> DataLoader:
    """Return a loader of samples by their places: a cell's and an image's number. What cannot be read is an error."""
    return DataLoader(_Samples(cells), None, sampler=places, num_workers=workers, collate_fn=_as_it_is,
                      worker_init_fn=_one_thread)


class _Samples(Dataset):
    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells

    def __getitem__(self, place: tuple[int, int]) -> Any:
        cell = self.cells[place[0]]
        try:
            return cell.dataset[place[1]]
        except Exception as error:  # of any transform; it would reach the main process as a traceback
            return ValueError(f'{cell.places(place[1])[0]} of the set {cell} cannot be used: '
                              f'{error or type(error).__name__}')


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)  # the processes share the cores


def _as_it_is(sample: Any) -> Any:
    return sample


def _blocks(
    jobs: Sequence[_Job], models: Mapping[str, BaseModel], classes: int, ignored: Sequence[int], workers: int,
    console: Console | None,
) -> Iterator[list[NDArray[np.uint32]]]:
    """Yield each block's rows (image, ground truth, prediction, pixels) by model, none but in the first process."""
    rank, world_size = get_dist_info()
    shares = [(i, job.cell.batches(block)[rank::world_size])
              for i, job in enumerate(jobs) for block in job.cell.blocks()]
    places = [(i, number) for i, batches in shares for number in itertools.chain(*batches)]
    loader = sample_loader([job.cell for job in jobs], places, workers)
    samples = iter(track(loader, 'Evaluate', len(places), console=console, disable=rank > 0 or console is None))
    for i, batches in shares:
        job = jobs[i]
        mine: dict[str, list[NDArray[np.int64]]] = {name: [np.empty((0, 4), np.int64)] for name in job.names}
        for numbers in batches:
            batch = dict(zip(numbers, samples, strict=False))  # strict would take a sample more
            for wrong in (sample for sample in batch.values() if isinstance(sample, ValueError)):
                raise wrong
            seen_by = {name: models[name] for name in job.names}
            for name, found in _rows(seen_by, batch, job.cell, classes, ignored):
                mine[name].append(found)
        everyone = gather_object({name: np.concatenate(rows) for name, rows in mine.items()})
        joined = [np.concatenate([its[name] for its in everyone or []]) for name in job.names if everyone]
        yield [rows[np.argsort(rows[:, 0], kind='stable')] for rows in joined]
    next(samples, None)


def _rows(
    models: Mapping[str, BaseModel], samples: Mapping[int, Mapping[str, Any]], cell: Cell, classes: int,
    ignored: Sequence[int],
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield each model's rows (image, ground truth, prediction, pixels) of samples by their images' numbers."""
    if isinstance(cell, LabeledCell):
        return told_labels(models, samples)
    return ((name, np.insert(pairs, 0, number, 1)) for number, sample in samples.items()
            for name, pairs in confusions(models, sample, cell, classes, ignored))


@torch.no_grad()
def confusions(
    models: Mapping[str, BaseSegmentor], sample: Mapping[str, Any], cell: Cell, classes: int, ignored: Sequence[int],
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield each model's pairs of classes that occur in an image: rows of ground truth, prediction, pixels."""
    batch = next(iter(models.values())).data_preprocessor(pseudo_collate([sample]), False)  # that of all
    [ready] = batch['data_samples']
    truth: Tensor = ready.gt_sem_seg.data[0]
    counts = torch.isin(truth, torch.tensor(ignored, device=truth.device), invert=True)
    labels = truth[counts].long()
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.max()) if int(labels.min()) >= 0 else int(labels.min())
        raise ValueError(f'The label of {ready.img_path} in the set {cell.key[0]!r} holds {wrong}, which is neither '
                         f'a class (0 to {classes - 1}) nor ignored ({", ".join(map(str, ignored))}). Map it to one.')
    for name, model in models.items():
        told: Tensor = model(**batch, mode='predict')[0].pred_sem_seg.data[0]
        if told.shape != truth.shape:
            raise ValueError(f'Of {ready.img_path} in the set {cell.key[0]!r}, prediction and label have other sizes '
                             f'({tuple(told.shape)} and {tuple(truth.shape)}): a transform changes one of them alone.')
        pixels = torch.bincount(labels * classes + told[counts].long(), minlength=classes ** 2).cpu().numpy()
        pairs = pixels.nonzero()[0]
        yield name, np.stack([pairs // classes, pairs % classes, pixels[pairs]], 1)


@torch.no_grad()
def told_labels(
    models: Mapping[str, BaseModel], samples: Mapping[int, Mapping[str, Any]],
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield each classifier's rows (image, ground truth, prediction, 1) of images, which are given by their numbers."""
    if len({sample['inputs'].shape for sample in samples.values()}) > 1:  # together they would be padded
        for number, sample in samples.items():
            yield from told_labels(models, {number: sample})
        return
    batch = next(iter(models.values())).data_preprocessor(pseudo_collate([*samples.values()]), False)  # that of all
    truth = torch.cat([sample.gt_label for sample in batch['data_samples']]).cpu().numpy()
    for name, model in models.items():
        told = torch.cat([sample.pred_label for sample in model(**batch, mode='predict')]).cpu().numpy()
        yield name, np.stack([[*samples], truth, told, np.ones_like(truth)], 1)


@torch.no_grad()
def show_images(
    rows: Sequence[Mapping[str, Any]], data: TestData, models: Mapping[str, BaseSegmentor], cfg: Config,
) -> list[Scene]:
    """Return images with their ground truth and what the models tell, of rows of ``Results.image_table``."""
    by_set = {cell.key[0]: cell for cell in data.cells if not cell.key[1]}
    ignored = torch.tensor(_ignored(cfg, len(data.classes)))
    scenes = []
    for row in rows:
        sample = by_set[row['set']].dataset[row['number']]
        batch = next(iter(models.values())).data_preprocessor(pseudo_collate([sample]), False)
        shape = shown_shape(sample['inputs'])
        truth = batch['data_samples'][0].gt_sem_seg.data.cpu()
        truth = truth.masked_fill(torch.isin(truth, ignored), VOID)
        told = {name: nearest(model(**batch, mode='predict')[0].pred_sem_seg.data, shape)
                for name, model in models.items()}
        told_right = [f'{name} {100 * row[f"run {name}"]:.1f}' for name in models]
        title = '\n'.join([row['set'], row['image'][-24:], *told_right])
        scenes.append(Scene(title, picture(sample['inputs'], next(iter(models.values()))), nearest(truth, shape), told))
    return scenes
