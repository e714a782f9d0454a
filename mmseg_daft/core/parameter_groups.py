"""Two learning rates, two named parameter groups: ηθ for the backbone, ηw for the head.

Integrated LP-FT (Ha, Jeong, Lee, AAAI 2024, section "Integrating LP and FT") trains both in one stage at independently
chosen rates. Few groups keep PyTorch's multi-tensor optimizer step whole, and their names label the rates in logs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmseg_daft.core.compiled import uncompiled

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)  # batch and instance norms are _NormBase


def parameter_groups(
    model: nn.Module,
    parts: Mapping[str, str | Sequence[str]],
    rates: Mapping[str, float],
    weight_decay: float | None = None,
    norm_decay_mult: float | None = None,
    bias_decay_mult: float | None = None,
) -> list[dict[str, Any]]:
    """Sort a model's trainable parameters into named groups for a PyTorch optimizer.

    Args:
        model: The model, without a distributed wrapper.
        parts: For each part, such as ``'backbone'`` and ``'head'``, the submodules that make it up; ``''`` is the rest.
            Names that the model lacks are allowed (not every model has a neck).
        rates: The absolute learning rate of each part.
        weight_decay: The optimizer's; needed with the two rules below.
        norm_decay_mult, bias_decay_mult: Multiply it for normalization layers' parameters, and for all other biases.

    Returns:
        One group a part, with the keys ``name``, ``part``, ``params`` and ``lr``; where a rule is given, further ones
        such as ``backbone_norm``, with ``weight_decay``. A part without trainable parameters has no group.

    Raises:
        ValueError: A trainable parameter belongs to no part or to two, a part has no rate, or nothing is trainable.
    """
    rules = {'norm': norm_decay_mult, 'bias': bias_decay_mult}
    if weight_decay is None and any(mult is not None for mult in rules.values()):
        raise ValueError('norm_decay_mult and bias_decay_mult multiply the optimizer\'s weight_decay, and it has none.')
    if missing := sorted(parts.keys() - rates.keys()):
        raise ValueError(f'There is no learning rate of {missing} in rates={dict(rates)}.')
    owners = [(scope, part) for part, scopes in parts.items()
              for scope in ([scopes] if isinstance(scopes, str) else scopes)]
    kinds = _decay_kinds(model := uncompiled(model))
    groups: dict[str, dict[str, Any]] = {}
    names: dict[int, tuple[str, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        part = _part_of(name, owners)
        first, first_part = names.setdefault(id(parameter), (name, part))
        if first_part != part:
            raise ValueError(f'Parameter {name!r} of the {part} is also {first!r} of the {first_part}: a shared '
                             'parameter cannot have two learning rates. Move one of the modules to the other part.')
        if first != name:
            continue
        kind = kinds.get(id(parameter))
        mult = rules.get(kind)
        key = part if mult is None else f'{part}_{kind}'
        group = groups.setdefault(key, dict(name=key, part=part, params=[], lr=rates[part]))
        if mult is not None:
            group['weight_decay'] = weight_decay * mult
        group['params'].append(parameter)
    if not groups:
        raise ValueError('The model has no trainable parameter: every requires_grad is False.')
    order = list(parts)
    return sorted(groups.values(), key=lambda group: (order.index(group['part']), group['name']))


def _part_of(name: str, owners: Sequence[tuple[str, str]]) -> str:
    """Return the one part that a parameter belongs to."""
    found = {part for scope, part in owners if scope and f'{name}.'.startswith(f'{scope}.')} or {
        part for scope, part in owners if not scope}
    if len(found) != 1:
        problem = f'to {" and ".join(sorted(found))}' if found else f'to none of {sorted(s for s, _ in owners)}'
        raise ValueError(f'Parameter {name!r} belongs {problem}, so its learning rate is unknown. List the submodule '
                         f'{name.split(".")[0]!r} in one part, or freeze the parameter (requires_grad=False).')
    return found.pop()


def _decay_kinds(model: nn.Module) -> dict[int, str]:
    """Tell the parameters of normalization layers and other layers' biases apart, by identity."""
    kinds: dict[int, str] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, _NORMS):
                kinds[id(parameter)] = 'norm'
            elif name == 'bias':
                kinds.setdefault(id(parameter), 'bias')
    return kinds
