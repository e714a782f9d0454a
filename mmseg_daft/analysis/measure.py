"""Run the models over the images of a split and measure: from a config and its runs to ``Findings``."""

import copy
import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import gather_object, get_dist_info
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor
from mmseg.registry import DATASETS
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset, Subset

from mmseg_daft.analysis.findings import VOID, DistortionMeter, Findings, ImageDistortion, Scene, choose
from mmseg_daft.analysis.runs import LoadedModel, changes_of, load_run, load_start
from mmseg_daft.console import quiet
from mmseg_daft.core.distortion import feature_distortion
from mmseg_daft.engine.configs import ignored_labels, is_classifier, type_name
from mmseg_daft.engine.feature_reference import returned_stages
from mmseg_daft.engine.samples import images_once
from mmseg_daft.engine.training_data import leaf_datasets

_SHOWN_WIDTH = 400  # of an image on a sheet, in pixels


def measure(
    cfg: Config, runs: Mapping[str, Path], pretrained: Path | None = None, stages: Sequence[str] = ('all',),
    split: str = 'test', images: int | None = None, batch_size: int = 1, workers: int = 2, amp: bool = False,
    sheets: bool = True, console: Console | None = None,
) -> Findings | None:
    """Measure what fine-tuning did; several processes share the images.

    Args:
        runs: By method, a checkpoint or run folder.
        pretrained: A checkpoint of the pre-trained model; ``None`` for what the config starts from.
        stages: Of the backbone, counted from 1; or ``('all',)``.
        split: Of the config's data.
        images: At most so many, evenly spread over the split; ``None`` for all.
        workers: Processes that load them.
        sheets: Whether to choose and show the least and most distorted images.
        console: Shows the progress; ``None`` for nothing.

    Returns:
        What was found; ``None`` in all processes but the first.

    Raises:
        ValueError: Models or data do not fit, before anything is measured; or features hold NaN.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    rank, world_size = get_dist_info()
    with quiet():
        start = load_start(cfg, pretrained, device)
        loaded = [load_run(cfg, name, path, device) for name, path in runs.items()]
        changes = {run.name: changes_of(run, start) for run in loaded}
        places = _stage_places(start.model, stages)
        dataset, names, classes = _open_images(cfg, split)
    total = len(names)
    count = min(images or total, total)
    numbers = [i * total // count for i in range(count)]
    ignored = torch.tensor(sorted(ignored_labels(cfg)))
    analyzer = _Analyzer(start, loaded, Subset(dataset, images_once(dataset)), names, classes, ignored,
                         is_classifier(cfg), places, device, amp, None if rank else console)
    everyone = gather_object(analyzer.measure(numbers[rank::world_size], batch_size, workers))
    if everyone is None:
        return None
    meters, *others = everyone
    for other, stage, method in itertools.product(others, places, runs):
        meters[stage][method].merge(other[stage][method])

    few = '' if count == total else f', evenly spread over {total}'
    few += '' if classes else ', without ground truth'
    notes = [f'Data: {count} images of the {split} split{few}; {type(dataset).__name__}, '
             f'config {Path(cfg.filename or "without a name").name}.',
             f'Before: the pre-trained model, {start.source}.', *(f'{run.name}: {run.source}.' for run in loaded)]
    if not start.predicts:
        notes.append('The pre-trained weights have no head that fits, so there are no predictions before fine-tuning.')
    notes += [f'{run.name}: the head does not fit the config, so its predictions are not shown.'
              for run in loaded if not run.predicts]
    if amp:
        notes.append('Computed in half precision (AMP): distortions below about 0.001 are rounding.')
    if count < 5:
        notes.append(f'With {count} image{"s" * (count > 1)} there are no intervals, and CKA is not to be relied on.')
    return Findings(tuple(runs), meters, changes, classes, dataset.metainfo.get('palette') or (), names, notes,
                    analyzer.sheets(meters) if sheets else {})


def _stage_places(model: BaseSegmentor, wanted: Sequence[str]) -> dict[str, int]:
    """Return where each wanted stage stands among the backbone's outputs; all of them for ``['all']``."""
    places = {stage: place for place, stage in enumerate(returned_stages(model.backbone))}
    unknown = [stage for stage in wanted if stage not in places and stage != 'all']
    if unknown:
        raise ValueError(f'The backbone returns the stages {", ".join(places)}, not {", ".join(unknown)}. '
                         'Name some of these; --cfg-options model.backbone.out_indices=... gives others.')
    return places if 'all' in wanted else {stage: places[stage] for stage in places if stage in wanted}


def _open_images(cfg: Config, split: str) -> tuple[Any, list[str], tuple[str, ...]]:
    """Open a split with the pipeline of the validation, without ground truth where the files have none.

    Returns:
        The data set, a short name of each image, and the classes of the ground truth: none without.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        splits = [name for name in ('train', 'val', 'test') if cfg.get(f'{name}_dataloader')]
        raise ValueError(f'The config has no {split}_dataloader; --split can be {" or ".join(splits)}.')
    dataset_cfg = copy.deepcopy(loader.dataset)
    if split == 'train':
        pipeline = leaf_datasets((cfg.get('val_dataloader') or cfg.test_dataloader).dataset)[0].pipeline
        for part in leaf_datasets(dataset_cfg):
            part.pipeline = copy.deepcopy(pipeline)
    dataset = DATASETS.build(dataset_cfg)
    if not len(dataset):
        raise ValueError(f'{split}_dataloader.dataset is empty. Check its data_root, ann_file, data_prefix, img_suffix '
                         'and seg_map_suffix.')
    infos = [dataset.get_data_info(i) for i in images_once(dataset)]
    labeled = all('gt_label' in info or (info.get('seg_map_path') and Path(info['seg_map_path']).is_file())
                  for info in infos)
    if not labeled:
        for part in leaf_datasets(dataset_cfg):
            part.pipeline = [step for step in part.pipeline if type_name(step) != 'LoadAnnotations']
        dataset = DATASETS.build(dataset_cfg)
    if isinstance(dataset.metainfo.get('classes'), str):
        raise ValueError(f'The classes of {split}_dataloader.dataset are one text, {dataset.metainfo["classes"]!r}: '
                         'name a list of names, or a file that is there.')
    names = image_names(info.get('img_path', f'image {i}') for i, info in enumerate(infos))
    return dataset, names, tuple(dataset.metainfo.get('classes') or ()) if labeled else ()


def image_names(paths: Iterable[str]) -> list[str]:
    """Return a short name for each image of a data set."""
    shown = [Path(os.fsencode(path).decode('utf-8', 'replace')) for path in paths]
    times = Counter(path.name for path in shown)
    return [path.name if times[path.name] == 1 else f'{path.parent.name}/{path.name}' for path in shown]


@dataclass(frozen=True)
class _Analyzer:
    """The models and how they are run.

    Attributes:
        ignored: Labels that are no class.
        classifier: Whether the models tell one class for an image, which then is that of all its positions.
        places: Where a stage stands among the backbone's outputs.
    """

    start: LoadedModel
    runs: Sequence[LoadedModel]
    dataset: Any
    names: Sequence[str]
    classes: Sequence[str]
    ignored: Tensor
    classifier: bool
    places: Mapping[str, int]
    device: torch.device
    amp: bool
    console: Console | None

    def measure(self, numbers: Sequence[int], batch_size: int, workers: int) -> dict[str, dict[str, DistortionMeter]]:
        """Measure the features of some images, by stage and method."""
        stages = {stage: {run.name: DistortionMeter(len(self.classes)) for run in self.runs} for stage in self.places}
        samples = StackDataset(numbers, Subset(self.dataset, numbers))
        batches = DataLoader(samples, batch_size, num_workers=workers, collate_fn=list)
        for batch in self._with_bar(batches, 'Measure images'):
            sizes = [sample['inputs'].shape for _, sample in batch]
            for size in dict.fromkeys(sizes):  # mmseg stacks no images of several sizes in a test
                group = [pair for pair, its_size in zip(batch, sizes, strict=True) if its_size == size]
                numbers, samples = map(list, zip(*group, strict=True))
                data = self.start.model.data_preprocessor(pseudo_collate(samples), False)
                before = self.features(self.start, data['inputs'], numbers)
                after = {run.name: self.features(run, data['inputs'], numbers) for run in self.runs}
                for stage, meters in stages.items():
                    labels, valid = self._at_positions(data, before[stage])
                    for method, meter in meters.items():
                        meter.add(numbers, before[stage], after[method][stage], labels, valid)
        return stages

    def _with_bar(self, steps: Collection[Any], title: str) -> Iterable[Any]:
        return track(steps, title, console=self.console, disable=self.console is None)

    def _at_positions(self, data: Mapping[str, Any], maps: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return what lies at the middle of each position of some maps ``(N, C, h, w)``.

        Returns:
            The ground truth if there is one: class ids ``(N, h, w)``, ``VOID`` where there is none, as in the padding
            at the right and bottom. And where the image is and not padding: a mask of the same shape, or ``None`` if
            nothing was padded.
        """
        height, width = data['inputs'].shape[2:]
        samples = data['data_samples']
        sizes = [(height, width) if self.classifier else tuple(sample.metainfo['img_shape'][:2]) for sample in samples]

        def shrink(images: Iterable[Tensor]) -> Tensor:
            shrunk = []
            for image, size in zip(images, sizes, strict=True):  # ground truth may have the size before resizing
                image = F.interpolate(image[None].float(), size=size, mode='nearest-exact')
                image = F.pad(image, (0, width - size[1], 0, height - size[0]), value=VOID)
                shrunk.append(F.interpolate(image, size=maps.shape[2:], mode='nearest-exact')[0, 0].long())
            return torch.stack(shrunk).to(self.device)

        labels = shrink(self._truth(sample) for sample in samples) if self.classes else None
        padded = any(size != (height, width) for size in sizes)
        return labels, shrink(torch.zeros(len(samples), 1, 1, 1)) != VOID if padded else None

    def _truth(self, sample: Any) -> Tensor:
        """Return a sample's class ids ``(1, H, W)``, ``VOID`` where its label is none; a classifier's ``(1, 1, 1)``."""
        if self.classifier:
            return sample.gt_label.cpu().view(1, 1, 1)
        labels = sample.gt_sem_seg.data.cpu()
        return labels.masked_fill(torch.isin(labels, self.ignored), VOID)

    @torch.no_grad()
    def features(self, loaded: LoadedModel, inputs: Tensor, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return a model's map of each stage; the images' numbers are for the message about NaN."""
        kind = torch.bfloat16 if self.device.type == 'cpu' else torch.float16
        with torch.autocast(self.device.type, kind, enabled=self.amp):
            outputs = loaded.model.backbone(inputs)
        maps = {stage: outputs[place] for stage, place in self.places.items()}
        for stage, features in maps.items():
            finite = torch.isfinite(features).flatten(1).all(1)
            if not finite.all():
                image = self.names[numbers[int((~finite).nonzero()[0])]]
                raise ValueError(f'The features of {loaded.name} ({loaded.source}) at stage {stage} of {image} hold '
                                 f'NaN or infinite values{": try without --amp" if self.amp else ""}.')
        return maps

    def sheets(self, stages: Mapping[str, Mapping[str, DistortionMeter]]) -> dict[tuple[str, str], list[Scene]]:
        """Choose each method's least and most distorted images by the last stage, and show them."""
        stage, meters = list(stages.items())[-1]
        chosen = [(run, which, *choice) for run in self.runs for which in ('least', 'most')
                  for choice in choose(meters[run.name].images, len(self.classes), which)]
        rows: dict[int, list[int]] = {}  # by image: one can stand for several classes
        for row, (_, _, image, _) in enumerate(chosen):
            rows.setdefault(image.number, []).append(row)
        scenes: dict[int, Scene] = {}
        for number, its_rows in self._with_bar(rows.items(), 'Show images'):
            wanted = [(run, image, class_) for run, _, image, class_ in (chosen[row] for row in its_rows)]
            scenes.update(zip(its_rows, self.scenes(number, wanted, stage), strict=True))
        sheets: dict[tuple[str, str], list[Scene]] = {}
        for row, (run, which, *_) in enumerate(chosen):
            sheets.setdefault((run.name, which), []).append(scenes[row])
        return sheets

    @torch.no_grad()
    def scenes(
        self, number: int, wanted: Iterable[tuple[LoadedModel, ImageDistortion, int | None]], stage: str,
    ) -> Iterator[Scene]:
        """Yield one image for each of some runs and classes: ground truth, predictions, where the features changed.

        Each model runs once, unless it sees the image in windows, or as AMP computes it.
        """
        sample = self.dataset[number]
        data = self.start.model.data_preprocessor(pseudo_collate([copy.deepcopy(sample)]), False)
        shape = shown_shape(sample['inputs'])

        def look(loaded: LoadedModel) -> tuple[Tensor, np.ndarray | None]:
            maps: list[Any] = []
            predicted = None
            if loaded.predicts and not self.classifier:
                handle = loaded.model.backbone.register_forward_hook(lambda *call: maps.append(call[-1]))
                try:
                    result = loaded.model.test_step(pseudo_collate([copy.deepcopy(sample)]))[0]
                finally:
                    handle.remove()
                predicted = nearest(result.pred_sem_seg.data, shape)
            if len(maps) == 1 and not self.amp:  # else they are of windows of the image
                return maps[0][self.places[stage]], predicted
            return self.features(loaded, data['inputs'], [number])[stage], predicted

        before, predicted = look(self.start)
        _, valid = self._at_positions(data, before)
        mapped = self.classes and not self.classifier
        truth = nearest(self._truth(sample['data_samples']), shape) if mapped else None
        name = self.names[number].rsplit('.', 1)[0]
        shown = picture(sample['inputs'], self.start.model)
        after: dict[str, tuple[Tensor, np.ndarray | None]] = {}
        for run, image, class_ in wanted:
            if run.name not in after:
                after[run.name] = look(run)
            features, prediction = after[run.name]
            heat = 1 - feature_distortion(before, features).cosine_similarity[0]
            if valid is not None:
                heat = heat[valid[0].any(1)][:, valid[0].any(0)]
            predictions = {'before': predicted, f'after {run.name}': prediction}
            cosine = image.cosine_similarity if class_ is None else image.class_cosine[class_]
            title = f'{name if len(name) <= 22 else "…" + name[-21:]}\ncosine {cosine:.3f}'
            if class_ is not None:
                title = f'{self.classes[class_]}\n{title}'
            yield Scene(title, shown, truth, {key: ids for key, ids in predictions.items() if ids is not None},
                        heat.cpu().numpy(), class_)


def shown_shape(inputs: Tensor) -> tuple[int, int]:
    """Return the height and width that an input is shown with."""
    height, width = inputs.shape[1:]
    scale = min(1.0, _SHOWN_WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def picture(inputs: Tensor, model: BaseSegmentor) -> np.ndarray:
    """Return what can be shown of a model's input: three channels or a gray one, by their range if not of 8 bits."""
    names = 'channel_conversion', '_channel_conversion', 'to_rgb'  # mmseg's, onedl-mmsegmentation's, MMPretrain's
    if len(inputs) == 3 and any(getattr(model.data_preprocessor, name, False) for name in names):
        inputs = inputs[[2, 1, 0]]
    channels = inputs[:3 if len(inputs) > 2 else 1]
    small = F.interpolate(channels[None].float(), size=shown_shape(inputs), mode='bilinear', antialias=True)[0]
    if inputs.dtype is not torch.uint8:
        small = (small - small.min()) * (255 / (small.max() - small.min()).clamp(min=1e-12))
    return small.round().clamp(0, 255).byte().expand(3, -1, -1).permute(1, 2, 0).numpy()


def nearest(ids: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Return class ids ``(1, H, W)`` in another size."""
    return F.interpolate(ids[None].float(), size=shape, mode='nearest-exact')[0, 0].long().cpu().numpy()
