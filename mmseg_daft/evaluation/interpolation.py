"""Models between the start and the end of a fine-tuning: WiSE-FT (Wortsman et al., CVPR 2022).

At α the weights are (1 - α) · start + α · end. The start is that of the training: where a conversion came first, the
converted one, as the end's checkpoint has it. Interpolated weights have other features than either end, so batch-norm
statistics are taken anew at each α, of all layers that training normalizes by mini-batch.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmseg.models import BaseSegmentor
from torch import Tensor

from mmseg_daft.analysis.runs import EXTRACTOR, LoadedModel, training_start
from mmseg_daft.core.batch_norm import BatchNorm, find_batch_norms
from mmseg_daft.engine.configs import hooks_of, type_name
from mmseg_daft.engine.convert_model import CONVERTED
from mmseg_daft.engine.reestimation import reestimate_statistics


class Line(NamedTuple):
    """The straight line in the space of weights that models are taken from.

    Attributes:
        start: The tensors that move, as training began with them.
        end: The model at α = 1.
        layers: Names of the batch-norm layers that training normalizes by mini-batch.
        words: What a reader has to know of it.
    """

    start: Mapping[str, Tensor]
    end: BaseSegmentor
    layers: Sequence[str]
    words: str

    def model(self, alpha: float, cfg: Config, num_batches: int | None = None) -> BaseSegmentor:
        """Return the model at α, in eval mode, with statistics of the config's training data.

        Raises:
            ValueError: As ``reestimate_statistics``.
        """
        model = copy.deepcopy(self.end)
        model.load_state_dict(interpolated(self.start, self.end.state_dict(), alpha))
        seed = cfg.get('randomness', {}).get('seed') or 0
        loader = Runner.build_dataloader(dict(cfg.train_dataloader, persistent_workers=False), seed=seed)
        reestimate_statistics(model, {name: model.get_submodule(name) for name in self.layers}, loader, seed,
                              num_batches)
        return model


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return (1 - α) · start + α · end, computed in float64; what the start lacks and whole numbers are the end's."""
    return {name: ((1 - alpha) * start[name].double() + alpha * tensor.double()).to(tensor.dtype)
            if name in start and tensor.is_floating_point() else tensor.clone() for name, tensor in end.items()}


def line_between(cfg: Config, start: LoadedModel, end: LoadedModel) -> Line:
    """Return the line from the start of a training to its end.

    A start without a decoder for these classes moves the backbone alone; all else stays the end's.

    Args:
        cfg: The training's config.
        start: The pre-trained model, or another model that the training can be measured from.
        end: The fine-tuned model, which loses its auxiliary heads.

    Raises:
        ValueError: The end predicts nothing, or was converted from another pre-trained model.
    """
    if not end.predicts:
        raise ValueError(f'{end.source} has no decoder that fits the config\'s model, so it predicts nothing.')
    if end.model.with_auxiliary_head:
        end.model.auxiliary_head = None  # it trains, and predicts nothing; files may lack it
    moving = {name: tensor for name, tensor in training_start(end, start).items()
              if start.predicts or name.startswith(f'{EXTRACTOR}.')}
    which = 'The backbone and the decoder move' if start.predicts else (
        f'The backbone moves; {start.source} has no decoder for these classes, so it is the end\'s everywhere')
    converted = ', converted as before the training' if end.facts.get(CONVERTED) else ''
    return Line(moving, end.model, list(layers_by_batch(cfg, end.model)),
                f'{which}. The start is {start.source}{converted}.')


def layers_by_batch(cfg: Config, model: BaseSegmentor) -> dict[str, BatchNorm]:
    """Return the batch-norm layers that a training by this config normalizes by mini-batch.

    Not frozen ones, nor those in eval mode by ``norm_eval`` or ``BNTestModeHook``: their statistics are weights. The
    model is left in eval mode.
    """
    model.train()
    for hook in hooks_of(cfg):
        if type_name(hook) == 'BNTestModeHook':
            for layer in find_batch_norms(model, HOOKS.build(dict(hook)).modules).values():
                layer.eval()
    found = {name: layer for name, layer in model.named_modules()
             if isinstance(layer, BatchNorm) and layer.training}
    model.eval()
    return found
