"""A learning rate for each stage of a backbone: layer-wise decay, and the tuning of some stages alone.

With a decay of 0.7 the last stage has the backbone's rate, the one before 0.7 of it, and so on down to the stem (for
transformers: Bao et al., ICLR 2022). With factors of 0 and 1 some stages alone are tuned: surgical fine-tuning (Lee et
al., ICLR 2023). One group a stage, where a rate of each layer's own would make a hundred.
"""

import difflib
from collections.abc import Mapping, Sequence

from torch import nn

from mmseg_daft.core.arguments import inside
from mmseg_daft.core.distortion import stage_of


def stage_rates(
    model: nn.Module, modules: str | Sequence[str], rate: float, layer_decay: float = 1.0,
    stage_lr_mult: Mapping[str, float] | None = None,
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return the stages of a backbone as parts for ``parameter_groups``, and the rate of each.

    The stages are ``stem``, ``stage1``, … in the model's order, as the layers' names tell: ``layer4`` is ``stage4``,
    timm's ``blocks.6`` is ``stage7``.

    Args:
        model: The model, without a distributed wrapper.
        modules: The submodules that make up the backbone.
        rate: The backbone's rate, which the last stage has.
        layer_decay: What a stage's rate is of that of the next one.
        stage_lr_mult: By stage, what its rate is multiplied by, besides; 1 where none is given.

    Raises:
        ValueError: The names of its layers do not tell the stages, or there is no stage of a name.
    """
    scopes = (modules,) if isinstance(modules, str) else tuple(modules)
    parts: dict[str, list[str]] = {}
    last = 0
    for name, _ in model.named_parameters(remove_duplicate=False):
        if not inside(name, scopes):
            continue
        number = stage_of(name).replace('stem', '0')
        if not number.isdecimal() or int(number) < last:
            raise ValueError(f'The stage of {name!r} is unknown. Rates per stage are for backbones whose layers are '
                             'named by stage, in the order of computation, as those of ResNets are (layer1 to layer4).')
        last = int(number)
        parts.setdefault(f'stage{last}' if last else 'stem', []).append(name)
    if not parts.keys() - {'stem'}:
        raise ValueError(f'No layer in {", ".join(scopes)} is named by a stage, as layer1 to layer4 of ResNets are, so '
                         'there are no rates per stage. Leave out layer_decay and stage_lr_mult.')
    factors = stage_lr_mult or {}
    for stage in factors:
        if stage not in parts:
            near = difflib.get_close_matches(stage, parts, n=1)
            raise ValueError(f'There is no stage {stage!r} in {", ".join(scopes)}; its stages are {", ".join(parts)}.'
                             + (f' Did you mean {near[0]!r}?' if near else ''))
    rates = {part: rate * layer_decay ** distance * factors.get(part, 1.0)
             for distance, part in enumerate(reversed(parts))}
    return parts, {part: rates[part] for part in parts}
