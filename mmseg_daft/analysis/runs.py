"""The models of an analysis: the pre-trained one, the fine-tuned runs, and what their training began with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_daft.analysis.findings import MethodChanges
from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.distortion import layer_tensors, relative_change, statistics_drift
from mmseg_daft.engine.checkpoints import read_checkpoint
from mmseg_daft.engine.configs import model_of
from mmseg_daft.engine.convert_model import CONVERTED, RECORD
from mmseg_daft.engine.pretrained_weights import match_weights, pretrained_starts
from mmseg_daft.files import noted_checkpoint

EXTRACTOR = 'backbone'


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, of a method or ``'before'``, and where its weights are from.

    Attributes:
        predicts: Whether its head was in the file, too.
        facts: What the run that wrote the file kept of itself (MMEngine's ``runtime_info``).
    """

    name: str
    source: str
    model: BaseSegmentor
    predicts: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


def _find_checkpoint(path: Path) -> Path:
    if path.is_file():
        return path
    if noted := noted_checkpoint(path):
        return noted
    numbered = [(int(found[1]), file) for file in path.glob('*.pth')
                if (found := re.search(r'_(\d+)\.pth$', file.name))]
    if not numbered:
        raise ValueError(f'{path} is neither a checkpoint nor a run folder with one (last_checkpoint, iter_*.pth). '
                         'Name one.')
    return max(numbered)[1]


def load_start(cfg: Config, checkpoint: Path | None, device: torch.device) -> LoadedModel:
    """Return the pre-trained model: from a checkpoint, or as the config has it (``init_cfg``, ``load_from``).

    Raises:
        ValueError: Its weights are missing or do not fit.
    """
    if checkpoint is not None:
        return load_run(cfg, 'before', checkpoint, device)
    if cfg.get('load_from'):
        return _load_file(cfg, 'before', cfg.load_from, device)
    model = _build(cfg)
    starts = list(pretrained_starts(model))
    starts = [start for start in starts if not start.name] or starts  # the whole model's goes before its parts'
    if not starts:
        raise ValueError('The config names no pre-trained weights (init_cfg, load_from). Name them by --pretrained, or '
                         'for interpolate as START: a checkpoint of this model.')
    for start in starts:
        if not start.own_loading and (problem := start.match().problem(0.95)):
            raise ValueError(f'The pre-trained weights {start.checkpoint!r} do not fit {start.name or "the model"}: '
                             f'{problem}')
    model.init_weights()
    predicts = any(not start.name for start in starts)
    for start in starts:
        if start.name and start.prefix == start.name and not start.own_loading:
            predicts |= _load(model, _read(start.checkpoint)[0], extractor=False) is None
    source = ' and '.join(str(start.checkpoint) for start in starts)
    return LoadedModel('before', source, _finite(model, source).to(device).eval(), predicts)


def load_run(cfg: Config, name: str, path: Path, device: torch.device) -> LoadedModel:
    """Return a run's model: of a checkpoint, or a run folder's last one.

    Raises:
        ValueError: There is no checkpoint, it is none, is of another architecture, or holds NaN.
    """
    return _load_file(cfg, name, str(_find_checkpoint(path)), device)


def _load_file(cfg: Config, name: str, path: str, device: torch.device) -> LoadedModel:
    model = _build(cfg)
    state, content = _read(path)
    if problem := _load(model, state, extractor=True):
        raise ValueError(f'{name}={path} does not fit the {EXTRACTOR} of the config\'s model. All checkpoints have to '
                         f'be of one architecture. {problem}')
    predicts = _load(model, state, extractor=False) is None
    facts = content.get('message_hub', {})
    facts = facts.get('runtime_info', {}) if isinstance(facts, dict) else facts.runtime_info
    return LoadedModel(name, path, _finite(model, f'{name}={path}').to(device).eval(), predicts, facts)


def _build(cfg: Config) -> BaseSegmentor:
    """Build the config's model without weights; SyncBatchNorm becomes what it is in eval mode on one device."""
    return revert_sync_batchnorm(MODELS.build(model_of(cfg)))


def _read(path: str) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    state, content = read_checkpoint(path)
    return {name.removeprefix('module.'): t for name, t in state.items() if isinstance(t, Tensor)}, content


def _load(model: BaseSegmentor, state: Mapping[str, Tensor], extractor: bool) -> str | None:
    """Load the feature extractor, or all else but auxiliary heads; or say what of it a file lacks, and load nothing."""
    wanted = {name: tensor for name, tensor in model.state_dict().items()
              if name.startswith(f'{EXTRACTOR}.') == extractor and not name.startswith('auxiliary_head.')}
    problem = match_weights(wanted, state).problem(1.0)
    if problem is None:
        # The rest as it is: torch 2.1 sets a num_batches_tracked that is not among them to 0.
        model.load_state_dict({**model.state_dict(), **{name: state[name] for name in wanted if name in state}})
    return problem


def _finite(model: BaseSegmentor, what: str) -> BaseSegmentor:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f'{what}: {name!r} holds NaN or infinite values, so the run diverged. Name a checkpoint '
                             'from before that, and lower the learning rate.')
    return model


def training_start(run: LoadedModel, start: LoadedModel) -> dict[str, Tensor]:
    """Return the state that a run's training began with: the pre-trained model's, after the run's conversion if any.

    Raises:
        ValueError: The run's conversion was not that of this pre-trained model, or is not in its checkpoint.
    """
    before = start.model.state_dict()
    record, kept = run.facts.get(RECORD), run.facts.get(CONVERTED)
    if record and kept is None:
        raise ValueError(f'{run.name}: {run.source} was converted and does not hold the tensors that its training '
                         'began with, as all checkpoints do since the first release. Train it again, or leave it out.')
    if kept and (record or {}).get('variant', {}).get('compensate', True):
        for name, layer in _batch_norms(start.model).items():
            # A conversion leaves γ over the standard deviation as it was.
            scales = [state[f'{name}.weight'].cpu().double() / (state[f'{name}.running_var'].cpu().double()
                                                                 + layer.eps).sqrt()
                      for state in (before, kept) if f'{name}.weight' in kept]
            if scales and relative_change(*scales) > 1e-3:
                raise ValueError(f'{run.name}: {run.source} was converted from another pre-trained model than '
                                 f'{run.name}\'s comparison is with ({name!r} differs). Name its own, by '
                                 '--pretrained or as START.')
    return {**before, **{name: tensor.to(before[name].device) for name, tensor in (kept or {}).items()}}


def _batch_norms(model: BaseSegmentor) -> dict[str, BatchNorm]:
    return {f'{EXTRACTOR}.{name}': layer for name, layer in model.backbone.named_modules()
            if isinstance(layer, BatchNorm)}


def changes_of(run: LoadedModel, start: LoadedModel) -> MethodChanges:
    """Return how a run's parameters changed since its training began (Eq. 6).

    Raises:
        ValueError: As ``training_start``.
    """
    before, after = training_start(run, start), run.model.state_dict()
    changes = {t: relative_change(before[t.name], after[t.name]) for t in layer_tensors(start.model, (EXTRACTOR,))}
    drift = {name: statistics_drift(name, before, after, layer.eps)
             for name, layer in _batch_norms(start.model).items() if layer.running_mean is not None}
    return MethodChanges(changes, drift, 'after the conversion' if run.facts.get(CONVERTED) else 'pre-trained')
