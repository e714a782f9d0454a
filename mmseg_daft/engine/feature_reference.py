"""The pre-trained model's features of a few fixed images, kept small, and how far a model's are from them now."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmseg_daft.core.batch_norm import eval_mode
from mmseg_daft.core.distortion import CrossMoments, feature_distortion, linear_cka, pooled, stage_of
from mmseg_daft.core.random_state import seed_everything

POSITIONS = 1024  # that CKA is taken over, per stage and all images: more change it little, and cost time


def fixed_samples(dataset: Any, number: int) -> list[dict[str, Any]]:
    """Return a few samples, or all, evenly spread over a data set, as its pipeline leaves them.

    The global random generators are seeded meanwhile: call it where they are preserved.

    Raises:
        ValueError: The data set is empty.
    """
    total = len(dataset)
    if not total:
        raise ValueError('The data set is empty, so there are no images to follow the features on. Check data_root '
                         'and data_prefix of val_dataloader.dataset.')
    seed_everything(0)
    number = min(number, total)
    return [dataset[i * total // number] for i in range(number)]


def returned_stages(backbone: nn.Module) -> list[str]:
    """Return the stages whose maps a backbone returns, in order, as ``stage_of`` names those of their layers.

    mmseg's backbones say so by ``out_indices``. timm's say from which module each map comes; where those modules'
    names tell no stage, the maps are counted from 1.

    Raises:
        ValueError: The backbone does not say which.
    """
    info = getattr(getattr(backbone, 'timm_model', None), 'feature_info', None)
    indices = getattr(backbone, 'out_indices', getattr(info, 'out_indices', None))
    if indices is None:
        raise ValueError(f'{type(backbone).__name__} does not say which stages it returns (out_indices).')
    counted = [str(index + 1) for index in indices]
    named = [stage_of(module) for module in info.module_name()] if info else counted
    return named if len(set(named)) == len(named) else counted


class FeatureReference:
    """Features of some stages in half precision, scaled so that none overflows.

    Args:
        model: The pre-trained model, without a distributed wrapper.
        samples: The images.
        stages: Of the backbone, counted from 1; ``None`` for the last that it returns.
        max_bytes: What images and features may take together.

    Raises:
        ValueError: The backbone does not return a stage, the budget is too small, or features are NaN or infinite.
    """

    def __init__(
        self, model: BaseModel, samples: Sequence[dict[str, Any]], stages: Sequence[int] | None, max_bytes: int,
    ) -> None:
        self.samples = samples
        returned = returned_stages(model.backbone)
        wanted = returned[-1:] if stages is None else [str(stage) for stage in stages]
        if unknown := [stage for stage in wanted if stage not in returned]:
            raise ValueError(f'FeatureDistortionHook(stages=...) names {", ".join(unknown)}; the backbone returns the '
                             f'stages {", ".join(returned)} (model.backbone.out_indices).')
        self.places = {stage: returned.index(stage) for stage in wanted}
        self.maps: dict[str, list[Tensor]] = {stage: [] for stage in wanted}
        self.scales: dict[str, float] = {}
        self.nbytes = sum(sample['inputs'].numel() * sample['inputs'].element_size() for sample in samples)
        for number, sample in enumerate(samples):
            features = self._features(model, sample)
            needed = self.nbytes + sum(maps.numel() * 2 for maps in features.values()) * len(samples)
            if number == 0 and needed > max_bytes:
                raise ValueError(
                    f'FeatureDistortionHook: {len(samples)} images and their features at the stages '
                    f'{", ".join(features)} need {needed / 2**20:.0f} MiB, and max_bytes allows '
                    f'{max_bytes / 2**20:.0f}. Use num_images={max(1, len(samples) * max_bytes // needed)}, fewer '
                    'stages, or a larger max_bytes.')
            for stage, maps in features.items():
                if not torch.isfinite(maps).all():
                    raise ValueError(f'The pre-trained model\'s features at stage {stage} hold NaN or infinite values. '
                                     'Check the pre-trained weights and the images.')
                scale = self.scales.setdefault(stage, max(float(maps.abs().max()), 1e-30))
                self.maps[stage].append(_small(maps, scale))
                self.nbytes += self.maps[stage][-1].numel() * 2

    @torch.no_grad()
    def _features(self, model: BaseModel, sample: dict[str, Any]) -> dict[str, Tensor]:
        with eval_mode(model):
            outputs = model.backbone(model.data_preprocessor(pseudo_collate([sample]), False)['inputs'])
        return {stage: outputs[place].float() for stage, place in self.places.items()}

    def fingerprint(self) -> dict[str, list[list[float]]]:
        """Return a few numbers that tell one pre-trained model's features from another's: means of channels."""
        return {stage: [(pooled(maps)[0, :16] * self.scales[stage]).tolist() for maps in every]
                for stage, every in self.maps.items()}

    def compare(self, model: BaseModel) -> dict[str, float]:
        """Return how far a model's features are from the pre-trained ones: by ``stage4/cosine_similarity`` and so on.

        Cosine similarity and L2 distance are means over images of the pooled features, as in the paper's Figure 1;
        ``pixel_cosine_similarity`` is that over all positions, and ``cka`` linear CKA over up to 1,024 of them.
        """
        sums: dict[str, float] = {}
        moments: dict[str, list[CrossMoments]] = {}
        for number, sample in enumerate(self.samples):
            for stage, maps in self._features(model, sample).items():
                scale = self.scales[stage]
                before, after = self.maps[stage][number].float(), _small(maps, scale).float()
                whole = feature_distortion(pooled(before), pooled(after))
                values = {'cosine_similarity': float(whole.cosine_similarity),
                          'l2_distance': float(whole.l2_distance) * scale,
                          'pixel_cosine_similarity': float(feature_distortion(before, after).cosine_similarity.mean())}
                for name, value in values.items():
                    key = f'stage{stage}/{name}'
                    sums[key] = sums.get(key, 0.0) + value / len(self.samples)
                self._add_positions(moments.setdefault(stage, []), before, after)
        return {**sums, **{f'stage{stage}/cka': linear_cka(*three) for stage, three in moments.items()}}

    def _add_positions(self, moments: list[CrossMoments], before: Tensor, after: Tensor) -> None:
        total = before[0, 0].numel()
        number = min(total, max(1, POSITIONS // len(self.samples)))
        places = torch.arange(number, device=before.device) * total // number  # evenly spread
        x, y = (maps[0].flatten(1)[:, places].T for maps in (before, after))
        moments[:] = moments or [CrossMoments(x.shape[1]) for _ in range(3)]
        for sums, (a, b) in zip(moments, ((x, y), (x, x), (y, y)), strict=True):
            sums.add(a, b)


def _small(maps: Tensor, scale: float) -> Tensor:
    """Round to half precision, the later features like the reference, so that rounding is no distortion."""
    return (maps / scale).half()
