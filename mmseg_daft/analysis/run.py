"""Run the models over the images and measure; then look again at the images that a sheet shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmseg.models import BaseSegmentor
from torch import Tensor

from mmseg_daft.analysis.contact_sheet import Choice, Scene
from mmseg_daft.analysis.data import Images, batches, labels_at_positions, of_one_size, positions_inside
from mmseg_daft.analysis.distortion_meter import DistortionMeter
from mmseg_daft.analysis.models import LoadedModel
from mmseg_daft.core.distortion import feature_distortion

_SHOWN_WIDTH = 400  # of an image on a sheet, in pixels


def stage_places(model: BaseSegmentor, wanted: Sequence[str]) -> dict[str, int]:
    """Return where each wanted stage stands among the backbone's outputs; all of them for ``['all']``.

    Raises:
        ValueError: The backbone does not return a stage.
    """
    out_indices = getattr(model.backbone, 'out_indices', None)
    if out_indices is None:
        raise ValueError(f'{type(model.backbone).__name__} does not say which stages it returns (out_indices).')
    places = {str(index + 1): place for place, index in enumerate(out_indices)}
    unknown = [stage for stage in wanted if stage not in places and stage != 'all']
    if unknown:
        raise ValueError(f'The backbone returns the stages {", ".join(places)}, not {", ".join(unknown)}. '
                         '--cfg-options model.backbone.out_indices=... changes that.')
    return places if 'all' in wanted else {stage: places[stage] for stage in places if stage in wanted}


class Analyser:
    """The models and how they are run.

    Args:
        start: The pre-trained model.
        runs: The fine-tuned models.
        images: What to look at.
        places: Of each stage among the backbone's outputs.
        device: Where the models are.
        amp: Whether in half precision (bfloat16 on a CPU).
    """

    def __init__(self, start: LoadedModel, runs: Sequence[LoadedModel], images: Images, places: Mapping[str, int],
                 device: torch.device, amp: bool) -> None:
        self.start, self.runs, self.images, self.places = start, runs, images, places
        self.device, self.amp = device, amp

    def measure(
        self, numbers: Sequence[int], batch_size: int, workers: int, report: Callable[[int], None],
    ) -> dict[str, DistortionMeter]:
        """Measure this process's images; ``report`` is called with the number of images done.

        Raises:
            ValueError: A model's features hold NaN or infinite values.
        """
        classes = len(self.images.classes) if self.images.labelled else 0
        meters = {stage: DistortionMeter([run.name for run in self.runs], classes) for stage in self.places}
        done = 0
        for batch in batches(self.images, numbers, batch_size, workers):
            for group in of_one_size(batch):
                self._measure_group(meters, group)
            done += len(batch)
            report(done)
        for meter in meters.values():
            for mine in meter.methods.values():
                mine.images.sort(key=lambda image: image.image)
        return meters

    def _measure_group(self, meters: Mapping[str, DistortionMeter], group: Sequence[tuple[int, Any]]) -> None:
        numbers, samples = zip(*group, strict=True)
        data = self.start.model.data_preprocessor(pseudo_collate(list(samples)), False)
        inputs, data_samples = data['inputs'], data['data_samples']
        before = self.features(self.start, inputs, numbers)
        after = {run.name: self.features(run, inputs, numbers) for run in self.runs}
        size = tuple(inputs.shape[2:])
        for stage, meter in meters.items():
            positions = tuple(before[stage].shape[2:])
            labels = labels_at_positions(data_samples, size, positions) if self.images.labelled else None
            valid = positions_inside(data_samples, size, positions)
            meter.add(numbers, before[stage], {name: maps[stage] for name, maps in after.items()},
                      *(None if t is None else t.to(self.device) for t in (labels, valid)))

    @torch.no_grad()
    def features(self, loaded: LoadedModel, inputs: Tensor, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return a model's map of each stage."""
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

    @torch.no_grad()
    def scene(self, run: LoadedModel, choice: Choice, stage: str) -> Scene:
        """Look at an image again: the image, ground truth, predictions and where the features were distorted."""
        sample = self.images.dataset[choice.image]
        data = self.start.model.data_preprocessor(pseudo_collate([sample]), False)
        before, after = (self.features(m, data['inputs'], [choice.image])[stage] for m in (self.start, run))
        heat = 1 - feature_distortion(before, after).cosine_similarity[0]
        valid = positions_inside(data['data_samples'], tuple(data['inputs'].shape[2:]), tuple(heat.shape))
        if valid is not None:
            rows, columns = valid[0].any(1), valid[0].any(0)
            heat = heat[rows][:, columns]
        shape = _shown_shape(sample['inputs'].shape[1:])
        predictions = {title: _nearest(self._prediction(m, choice.image), shape)
                       for title, m in (('before', self.start), (f'after {run.name}', run)) if m.predicts}
        truth = _nearest(sample['data_samples'].gt_sem_seg.data, shape) if self.images.labelled else None
        name = self.images.names[choice.image]
        title = f'{self.images.classes[choice.class_]}\n' if choice.class_ is not None else ''
        title += f'{_short(name)}\ncosine {choice.cosine:.3f}'
        picture = self._picture(sample['inputs'], shape)
        return Scene(title, picture, truth, predictions, heat.cpu().numpy(), choice.class_)

    def _prediction(self, loaded: LoadedModel, number: int) -> Tensor:
        return loaded.model.test_step(pseudo_collate([self.images.dataset[number]]))[0].pred_sem_seg.data

    def _picture(self, inputs: Tensor, shape: tuple[int, int]) -> np.ndarray:
        if self.start.model.data_preprocessor.channel_conversion:
            inputs = inputs[[2, 1, 0]]
        small = F.interpolate(inputs[None].float(), size=shape, mode='bilinear', antialias=True)[0]
        return small.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _shown_shape(size: Sequence[int]) -> tuple[int, int]:
    scale = min(1.0, _SHOWN_WIDTH / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _nearest(ids: Tensor, shape: tuple[int, int]) -> np.ndarray:
    return F.interpolate(ids[None].float(), size=shape, mode='nearest-exact')[0, 0].long().cpu().numpy()


def _short(name: str, most: int = 22) -> str:
    stem = name.rsplit('.', 1)[0]
    return stem if len(stem) <= most else f'…{stem[1 - most:]}'


def over_ranks(meters: Mapping[str, DistortionMeter]) -> dict[str, DistortionMeter]:
    """Bring what all processes measured together in the first one; others get their own back."""
    if not dist.is_initialized():
        return dict(meters)
    everyone = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(dict(meters), everyone)
    for other in (everyone or [])[1:]:
        for stage, meter in meters.items():
            meter.merge(other[stage])
    return dict(meters)
