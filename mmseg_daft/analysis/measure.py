"""Run the models over the images and measure: from a config and its runs to ``Findings``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_dist_info
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mmseg_daft.analysis.findings import Findings, Scene, choose
from mmseg_daft.analysis.images import Images, at_positions, of_one_size, open_images
from mmseg_daft.analysis.meter import DistortionMeter, ImageDistortion
from mmseg_daft.analysis.runs import LoadedModel, changes_of, load_run, load_start
from mmseg_daft.console import quiet
from mmseg_daft.core.distortion import feature_distortion

_SHOWN_WIDTH = 400  # of an image on a sheet, in pixels


def measure(
    cfg: Config, runs: Mapping[str, Path], pretrained: Path | None = None, stages: Sequence[str] = ('all',),
    split: str = 'test', images: int | None = None, batch_size: int = 1, workers: int = 2, amp: bool = False,
    sheets: bool = True, console: Console | None = None,
) -> Findings | None:
    """Measure what fine-tuning did; several processes share the images.

    Args:
        cfg: The config.
        runs: By method, a checkpoint or run folder.
        pretrained: A checkpoint of the pre-trained model; ``None`` for what the config starts from.
        stages: Of the backbone, counted from 1; or ``('all',)``.
        split: Of the config's data.
        images: At most so many, evenly spread over the split; ``None`` for all.
        batch_size: Images at once.
        workers: Processes that load them.
        amp: Half precision.
        sheets: Whether to choose and show the least and most distorted images.
        console: Shows the progress; ``None`` for nothing.

    Returns:
        What was found; ``None`` in all processes but the first.

    Raises:
        ValueError: Models or data do not fit, before anything is measured; or features hold NaN.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    rank, world_size = get_dist_info()
    with quiet():
        start = load_start(cfg, pretrained, device)
        loaded = [load_run(cfg, name, path, device) for name, path in runs.items()]
        changes = {run.name: changes_of(run, start) for run in loaded}
        places = _stage_places(start.model, stages)
        data = open_images(cfg, split)
    total = len(data.names)
    numbers = range(total) if images is None or images >= total else [i * total // images for i in range(images)]
    analyzer = _Analyzer(start, loaded, data, places, device, amp, None if rank else console)
    meters = _gather(analyzer.measure(numbers[rank::world_size], batch_size, workers))
    if rank:
        return None
    classes = data.classes if data.labeled else ()
    few = '' if len(numbers) == total else f', evenly spread over {total}'
    few += '' if data.labeled else ', without ground truth'
    notes = [f'Data: {len(numbers)} images of the {split} split{few}; {type(data.dataset).__name__}, '
             f'config {Path(cfg.filename or "without a name").name}.',
             f'Before: the pre-trained model, {start.source}.', *(f'{run.name}: {run.source}.' for run in loaded)]
    if not start.predicts:
        notes.append('The pre-trained weights have no head that fits, so there are no predictions before fine-tuning.')
    notes += [f'{run.name}: the head does not fit the config, so its predictions are not shown.'
              for run in loaded if not run.predicts]
    if amp:
        notes.append('Computed in half precision (AMP): distortions below about 0.001 are rounding.')
    if len(numbers) < 5:
        notes.append(f'With {len(numbers)} image{"s" * (len(numbers) > 1)} there are no intervals, and CKA is not to '
                     'be relied on.')
    return Findings(tuple(runs), meters, changes, classes, data.palette, data.names, notes,
                    analyzer.sheets(meters, len(classes)) if sheets else {})


def _stage_places(model: BaseSegmentor, wanted: Sequence[str]) -> dict[str, int]:
    """Return where each wanted stage stands among the backbone's outputs; all of them for ``['all']``."""
    out_indices = getattr(model.backbone, 'out_indices', None)
    if out_indices is None:
        raise ValueError(f'{type(model.backbone).__name__} does not say which stages it returns (out_indices).')
    places = {str(index + 1): place for place, index in enumerate(out_indices)}
    unknown = [stage for stage in wanted if stage not in places and stage != 'all']
    if unknown:
        raise ValueError(f'The backbone returns the stages {", ".join(places)}, not {", ".join(unknown)}. '
                         '--cfg-options model.backbone.out_indices=... changes that.')
    return places if 'all' in wanted else {stage: places[stage] for stage in places if stage in wanted}


@dataclass(frozen=True)
class _Analyzer:
    """The models and how they are run; ``places`` says where a stage stands among the backbone's outputs."""

    start: LoadedModel
    runs: Sequence[LoadedModel]
    images: Images
    places: Mapping[str, int]
    device: torch.device
    amp: bool
    console: Console | None

    def measure(self, numbers: Sequence[int], batch_size: int, workers: int) -> dict[str, dict[str, DistortionMeter]]:
        """Measure the features of some images, by stage and method."""
        classes = len(self.images.classes) if self.images.labeled else 0
        stages = {stage: {run.name: DistortionMeter(classes) for run in self.runs} for stage in self.places}
        for batch in self._with_bar(self.images.batches(numbers, batch_size, workers), 'Measure images'):
            for group in of_one_size(batch):
                self._measure_group(stages, group)
        return stages

    def _with_bar(self, steps: Collection[Any], title: str) -> Iterable[Any]:
        return track(steps, title, len(steps), console=self.console, disable=self.console is None)

    def _measure_group(
        self, stages: Mapping[str, Mapping[str, DistortionMeter]], group: Sequence[tuple[int, Any]],
    ) -> None:
        numbers, samples = zip(*group, strict=True)
        data = self.start.model.data_preprocessor(pseudo_collate(list(samples)), False)
        inputs, data_samples = data['inputs'], data['data_samples']
        before = self.features(self.start, inputs, numbers)
        after = {run.name: self.features(run, inputs, numbers) for run in self.runs}
        size = tuple(inputs.shape[2:])
        for stage, meters in stages.items():
            labels, valid = (None if t is None else t.to(self.device) for t in at_positions(
                data_samples, size, tuple(before[stage].shape[2:]), self.images.labeled))
            for method, meter in meters.items():
                meter.add(numbers, before[stage], after[method][stage], labels, valid)

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
                image = self.images.names[numbers[int((~finite).nonzero()[0])]]
                raise ValueError(f'The features of {loaded.name} ({loaded.source}) at stage {stage} of {image} hold '
                                 f'NaN or infinite values{": try without --amp" if self.amp else ""}.')
        return maps

    def sheets(
        self, stages: Mapping[str, Mapping[str, DistortionMeter]], classes: int,
    ) -> dict[tuple[str, str], list[Scene]]:
        """Choose each method's least and most distorted images by the last stage, and show them."""
        stage, meters = list(stages.items())[-1]
        chosen = [(run, which, *choice) for run in self.runs for which in ('least', 'most')
                  for choice in choose(meters[run.name].images, classes, which)]
        sheets: dict[tuple[str, str], list[Scene]] = {}
        for run, which, image, class_ in self._with_bar(chosen, 'Show images'):
            sheets.setdefault((run.name, which), []).append(self.scene(run, image, class_, stage))
        return sheets

    @torch.no_grad()
    def scene(self, run: LoadedModel, image: ImageDistortion, class_: int | None, stage: str) -> Scene:
        """Return an image with ground truth, predictions and where the features were distorted."""
        sample = self.images.dataset[image.number]
        data = self.start.model.data_preprocessor(pseudo_collate([sample]), False)
        before, after = (self.features(m, data['inputs'], [image.number])[stage] for m in (self.start, run))
        heat = 1 - feature_distortion(before, after).cosine_similarity[0]
        _, valid = at_positions(data['data_samples'], tuple(data['inputs'].shape[2:]), tuple(heat.shape), labeled=False)
        if valid is not None:
            rows, columns = valid[0].any(1), valid[0].any(0)
            heat = heat[rows][:, columns]
        height, width = sample['inputs'].shape[1:]
        scale = min(1.0, _SHOWN_WIDTH / width)
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        predictions = {}
        for title, loaded in (('before', self.start), (f'after {run.name}', run)):
            if loaded.predicts:
                result = loaded.model.test_step(pseudo_collate([self.images.dataset[image.number]]))[0]
                predictions[title] = _nearest(result.pred_sem_seg.data, shape)
        truth = _nearest(sample['data_samples'].gt_sem_seg.data, shape) if self.images.labeled else None
        name = self.images.names[image.number].rsplit('.', 1)[0]
        title = f'{name if len(name) <= 22 else "…" + name[-21:]}\ncosine '
        if class_ is None:
            title += f'{image.cosine_similarity:.3f}'
        else:
            title = f'{self.images.classes[class_]}\n{title}{image.class_cosine[class_]:.3f}'
        return Scene(title, self._picture(sample['inputs'], shape), truth, predictions, heat.cpu().numpy(), class_)

    def _picture(self, inputs: Tensor, shape: tuple[int, int]) -> np.ndarray:
        if self.start.model.data_preprocessor.channel_conversion:
            inputs = inputs[[2, 1, 0]]
        small = F.interpolate(inputs[None].float(), size=shape, mode='bilinear', antialias=True)[0]
        return small.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _nearest(ids: Tensor, shape: tuple[int, int]) -> np.ndarray:
    return F.interpolate(ids[None].float(), size=shape, mode='nearest-exact')[0, 0].long().cpu().numpy()


def _gather(stages: dict[str, dict[str, DistortionMeter]]) -> dict[str, dict[str, DistortionMeter]]:
    """Bring what all processes measured together in the first one; others get their own back."""
    if dist.is_initialized():
        everyone = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(stages, everyone)
        for other in (everyone or [])[1:]:
            for stage, meters in stages.items():
                for method, meter in meters.items():
                    meter.merge(other[stage][method])
    return stages
