"""Run as much of an MMEngine model as its batch-norm layers need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

_EXTRACTOR = ('backbone', 'neck')


class ModelForward:
    """The part of a model that holds some layers, as a function of a batch from the training loader.

    Layers of the backbone (and neck) alone need only ``extract_feat``: the decoder does not run. Others
    need the whole training forward, which unlike ``mode='tensor'`` reaches auxiliary heads.

    Args:
        model: The model, without a distributed wrapper.
        layer_names: Full names of the layers that have to be reached.
    """

    def __init__(self, model: BaseModel, layer_names: Iterable[str]) -> None:
        self.model = model
        self.features_only = hasattr(model, 'extract_feat') and all(
            name.split('.')[0] in _EXTRACTOR for name in layer_names)

    def prepare(self, batch: Any) -> Any:
        """Move a batch to the model's device, normalise and stack it, as training does.

        Raises:
            ValueError: An image holds NaN or infinite values.
        """
        data = self.model.data_preprocessor(batch, True)
        inputs, samples = _parts(data)
        finite = torch.isfinite(inputs).flatten(1).all(1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            path = getattr(samples[bad], 'img_path', None) if samples else None
            raise ValueError(
                f'The training image {path or f"number {bad} of a mini-batch"} holds NaN or infinite values after '
                'the training pipeline and the data preprocessor. Repair or remove the file, or mend the transform.')
        return data

    def train_path(self, data: Any) -> Any:
        """Run what training runs, up to the last of the layers."""
        if self.features_only:
            return self.model.extract_feat(_parts(data)[0])
        return self.model._run_forward(data, mode='loss')

    def outputs(self, data: Any) -> list[Tensor]:
        """Return the features, or the model's raw outputs where the layers lie outside the extractor."""
        if self.features_only:
            return list(_tensors(self.model.extract_feat(_parts(data)[0])))
        return list(_tensors(self.model._run_forward(data, mode='tensor')))


def _parts(data: Any) -> tuple[Tensor, Any]:
    if isinstance(data, dict):
        return data['inputs'], data.get('data_samples')
    return data[0], data[1] if len(data) > 1 else None


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        yield from _tensors(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from _tensors(output)
