"""The models of an analysis: the pre-trained one, the fine-tuned runs, and what their training began with."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import load_checkpoint
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_daft.analysis.findings import MethodChanges
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.distortion import layer_tensors, relative_change, statistics_drift
from mmseg_daft.engine.checkpoints import read_checkpoint
from mmseg_daft.engine.hooks.bn_conversion_hook import CONVERTED, RECORD
from mmseg_daft.engine.pretrained_weights import match_start, match_weights, pretrained_starts

EXTRACTOR = 'backbone'


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode.

    Attributes:
        name: The method, or ``'before'``.
        source: Where its weights are from.
        model: The model.
        predicts: Whether its head was in the file, too.
        facts: What the run that wrote the file kept of itself (MMEngine's ``runtime_info``).
    """

    name: str
    source: str
    model: BaseSegmentor
    predicts: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint: the file itself, or a run folder's last one.

    Raises:
        ValueError: There is none.
    """
    if path.is_file():
        return path
    note = path / 'last_checkpoint'
    if note.is_file() and (path / Path(note.read_text().strip()).name).is_file():  # the folder may have been moved
        return path / Path(note.read_text().strip()).name
    numbered = [(int(found[1]), file) for file in path.glob('*.pth')
                if (found := re.search(r'_(\d+)\.pth$', file.name))]
    if not numbered:
        raise ValueError(f'{path} is neither a checkpoint nor a run folder with one (last_checkpoint, iter_*.pth).')
    return max(numbered)[1]


def load_start(cfg: Config, checkpoint: Path | None, device: torch.device) -> LoadedModel:
    """Return the pre-trained model: from a checkpoint, or as the config has it (``init_cfg``, ``load_from``).

    Raises:
        ValueError: Its weights are missing or do not fit.
    """
    if checkpoint is not None:
        return load_run(cfg, 'before', checkpoint, device)
    model = _build(cfg)
    starts = list(pretrained_starts(model))
    starts = [start for start in starts if not start.name] or starts  # the whole model's goes before its parts'
    if not starts and not cfg.get('load_from'):
        raise ValueError('The config names no pre-trained weights (init_cfg, load_from). Name them by --pretrained, as '
                         'a checkpoint of this model.')
    for start in starts:
        problem = None if start.own_loading else match_start(start).problem(0.95)
        if problem:
            raise ValueError(f'The pre-trained weights {start.checkpoint!r} do not fit {start.name or "the model"}: '
                             f'{problem}')
    model.init_weights()
    source, predicts = ' and '.join(str(start.checkpoint) for start in starts), any(not s.name for s in starts)
    for start in starts:
        if start.name and start.prefix == start.name and not start.own_loading:
            predicts |= _load_heads(model, _read(start.checkpoint)[0])
    if cfg.get('load_from'):
        source, predicts = str(cfg.load_from), True
        _load_extractor(model, _read(source)[0], source)
        load_checkpoint(model, source, map_location='cpu')
    return LoadedModel('before', source, _finite(model, source).to(device).eval(), predicts)


def load_run(cfg: Config, name: str, path: Path, device: torch.device) -> LoadedModel:
    """Return a run's model.

    Raises:
        ValueError: There is no checkpoint, it is none, is of another architecture, or holds NaN.
    """
    checkpoint = find_checkpoint(path)
    model = _build(cfg)
    state, content = _read(checkpoint)
    _load_extractor(model, state, f'{name}={checkpoint}')
    predicts = _load_heads(model, state)
    facts = content.get('message_hub', {})
    facts = facts.get('runtime_info', {}) if isinstance(facts, dict) else facts.runtime_info
    return LoadedModel(
        name, str(checkpoint), _finite(model, f'{name}={checkpoint}').to(device).eval(), predicts, facts)


def _build(cfg: Config) -> BaseSegmentor:
    """Build the config's model without weights; SyncBatchNorm becomes what it is in eval mode on one device."""
    return revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))


def _read(path: str | Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    state, content = read_checkpoint(str(path))
    return {name.removeprefix('module.'): t for name, t in state.items() if isinstance(t, Tensor)}, content


def _load_extractor(model: BaseSegmentor, state: Mapping[str, Tensor], what: str) -> None:
    """Load the feature extractor, all of which has to be there."""
    wanted = [name for name in model.state_dict() if name.startswith(f'{EXTRACTOR}.')]
    problem = _load(model, state, wanted)
    if problem:
        raise ValueError(f'{what} does not fit the {EXTRACTOR} of the config\'s model. All checkpoints have to be of '
                         f'one architecture. {problem}')


def _load_heads(model: BaseSegmentor, state: Mapping[str, Tensor]) -> bool:
    """Load all but the feature extractor where it is there and fits, and return whether it was."""
    wanted = [name for name in model.state_dict() if not name.startswith((f'{EXTRACTOR}.', 'auxiliary_head.'))]
    return _load(model, state, wanted) is None


def _load(model: BaseSegmentor, state: Mapping[str, Tensor], names: list[str]) -> str | None:
    """Load these tensors, or say which of them are missing or of another shape."""
    own = model.state_dict()
    problem = match_weights({name: own[name] for name in names}, state).problem(1.0)
    if problem is None:
        model.load_state_dict({name: state[name] for name in names if name in state}, strict=False)
    return problem


def _finite(model: BaseSegmentor, what: str) -> BaseSegmentor:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f'{what}: {name!r} holds NaN or infinite values, so the run diverged. Name a checkpoint '
                             'from before that, and lower the learning rate.')
    return model


def changes_of(run: LoadedModel, start: LoadedModel) -> MethodChanges:
    """Return how a run's parameters changed since its training began (Eq. 6).

    Raises:
        ValueError: The run's conversion was not that of this pre-trained model, or is not in its checkpoint.
    """
    before, after = start.model.state_dict(), run.model.state_dict()
    layers = {f'{EXTRACTOR}.{name}': layer for name, layer in start.model.backbone.named_modules()
              if isinstance(layer, BatchNorm)}
    record, kept = run.facts.get(RECORD), run.facts.get(CONVERTED)
    if record and kept is None:
        raise ValueError(f'{run.name}: {run.source} was converted and does not hold the tensors that its training '
                         'began with, as checkpoints do since version 0.1.0. Train it again, or leave it out.')
    if kept and (record or {}).get('variant', {}).get('compensate', True):
        _refuse_other_start(run, before, kept, layers)
    before = {**before, **(kept or {})}
    changes = {t: relative_change(before[t.name], after[t.name]) for t in layer_tensors(start.model, (EXTRACTOR,))}
    drift = {name: statistics_drift(name, before, after, layer.eps)
             for name, layer in layers.items() if layer.running_mean is not None}
    return MethodChanges(changes, drift, 'after the conversion' if kept else 'pre-trained')


def _refuse_other_start(
    run: LoadedModel, before: Mapping[str, Tensor], kept: Mapping[str, Tensor], layers: Mapping[str, BatchNorm],
) -> None:
    """Check what a conversion leaves as it was: γ over the standard deviation."""
    for name, layer in layers.items():
        if f'{name}.weight' in kept:
            a, b = (state[f'{name}.weight'].cpu().double() / (state[f'{name}.running_var'].cpu().double()
                                                               + layer.eps).sqrt() for state in (before, kept))
            if relative_change(a, b) > 1e-3:
                raise ValueError(f'{run.name}: {run.source} was converted from another pre-trained model than '
                                 f'{run.name}\'s comparison is with ({name!r} differs). Name its own by --pretrained.')
