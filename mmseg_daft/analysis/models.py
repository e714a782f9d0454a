"""The models of an analysis: the pre-trained start, the fine-tuned runs, and what their training began with."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner, load_checkpoint
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_daft.analysis.findings import MethodChanges
from mmseg_daft.core.batch_norm import BatchNorm, find_batch_norms
from mmseg_daft.core.distortion import layer_tensors, relative_change, statistics_drift
from mmseg_daft.core.random_state import preserved_random_state
from mmseg_daft.core.shift import domain_shift
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.core.variant import ConversionVariant, convert, state_of
from mmseg_daft.engine.checkpoints import read_checkpoint
from mmseg_daft.engine.convert_model import CONVERTED, RECORD
from mmseg_daft.engine.pretrained_weights import match_start, match_weights, pretrained_starts
from mmseg_daft.engine.training_data import ModelForward, TargetLoader

EXTRACTOR = 'backbone'


@dataclass(frozen=True)
class LoadedModel:
    """A model in test mode.

    Attributes:
        name: The method, or ``'before'``.
        source: Where its weights are from.
        model: The model.
        predicts: Whether its head was in the file, too.
        facts: What the run that wrote the file kept of itself (MMEngine's ``runtime_info``).
        config: The config of that run, as text, or ``None``.
    """

    name: str
    source: str
    model: BaseSegmentor
    predicts: bool
    facts: Mapping[str, Any]
    config: str | None


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


def build_model(cfg: Config) -> BaseSegmentor:
    """Build the config's model without weights; SyncBatchNorm becomes what it is in test mode on one device."""
    return revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))


def load_start(cfg: Config, checkpoint: Path | None, device: torch.device) -> LoadedModel:
    """Return the pre-trained model: from a checkpoint, or as the config has it (``init_cfg``, ``load_from``).

    Raises:
        ValueError: Its weights are missing or do not fit.
    """
    if checkpoint is not None:
        return load_run(cfg, 'before', checkpoint, device)
    model = build_model(cfg)
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
    sources, predicts = [str(start.checkpoint) for start in starts], any(not start.name for start in starts)
    for start in starts:
        if start.name and start.prefix == start.name and not start.own_loading:
            predicts |= _load_heads(model, _read(start.checkpoint)[0])
    if cfg.get('load_from'):
        _load_part(model, _read(cfg.load_from)[0], str(cfg.load_from))
        load_checkpoint(model, cfg.load_from, map_location='cpu')
        sources, predicts = [str(cfg.load_from)], True
    _refuse_nan(model, ' and '.join(sources))
    return LoadedModel('before', ' and '.join(sources), model.to(device).eval(), predicts, {}, None)


def load_run(cfg: Config, name: str, path: Path, device: torch.device) -> LoadedModel:
    """Return a run's model.

    Raises:
        ValueError: There is no checkpoint, it is none, is of another architecture, or holds NaN.
    """
    checkpoint = find_checkpoint(path)
    model = build_model(cfg)
    state, content = _read(checkpoint)
    _load_part(model, state, f'{name}={checkpoint}')
    predicts = _load_heads(model, state)
    _refuse_nan(model, f'{name}={checkpoint}')
    facts = content.get('message_hub', {})
    facts = facts.get('runtime_info', {}) if isinstance(facts, dict) else facts.runtime_info
    return LoadedModel(name, str(checkpoint), model.to(device).eval(), predicts, facts,
                       content.get('meta', {}).get('cfg'))


def _read(path: str | Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    state, content = read_checkpoint(str(path))
    return {name.removeprefix('module.'): t for name, t in state.items() if isinstance(t, Tensor)}, content


def _load_part(model: BaseSegmentor, state: Mapping[str, Tensor], what: str) -> None:
    """Load the feature extractor, all of which has to be there."""
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(f'{EXTRACTOR}.')}
    problem = match_weights(wanted, state).problem(1.0)
    if problem:
        raise ValueError(f'{what} does not fit the {EXTRACTOR} of the config\'s model. All checkpoints have to be of '
                         f'one architecture. {problem}')
    model.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def _load_heads(model: BaseSegmentor, state: Mapping[str, Tensor]) -> bool:
    """Load all but the feature extractor where it is there and fits, and return whether it was."""
    wanted = {name: tensor for name, tensor in model.state_dict().items()
              if not name.startswith((f'{EXTRACTOR}.', 'auxiliary_head.'))}
    fits = match_weights(wanted, state).problem(1.0) is None
    if fits:
        model.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
    return fits


def _refuse_nan(model: BaseSegmentor, what: str) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f'{what}: {name!r} holds NaN or infinite values, so the run diverged. Name a checkpoint '
                             'from before that, and lower the learning rate.')


def changes_of(run: LoadedModel, start: LoadedModel, recompute: bool, modules: Sequence[str] = (EXTRACTOR,),
               ) -> tuple[MethodChanges, list[str]]:
    """Return a run's changes since its training began (Eq. 6), and notes on what they are measured from.

    Args:
        run: The run.
        start: The pre-trained model.
        recompute: Convert the pre-trained model again where the run was converted and kept no tensors of it; needs
            the run's training data. Without, its converted layers are left out.
        modules: The submodules meant.

    Raises:
        ValueError: The run's conversion was not that of this pre-trained model.
    """
    before, after = start.model.state_dict(), run.model.state_dict()
    layers = find_batch_norms(start.model, modules) if _has_batch_norm(start.model, modules) else {}
    record, kept = run.facts.get(RECORD), run.facts.get(CONVERTED)
    left: set[str] = set()
    reference, notes = 'pre-trained', []
    if record and kept is None and recompute:
        kept, reference = converted_again(run, start, record), 'after the conversion (computed again)'
        notes.append(f'{run.name}: the run kept no tensors of its conversion, so it was computed again from its data '
                     f'and seed ({record["num_images"]} images); it agrees with what the run recorded of it.')
    elif record and kept is None:
        left, reference = set(record['shifts']), 'pre-trained (conv alone)'
        notes.append(f'{run.name}: the run was converted and kept no tensors of that, so what its BN layers began with '
                     'is unknown and they are left out. --recompute-conversion computes it again.')
    elif kept is not None:
        reference = 'after the conversion'
        if (record or {}).get('variant', {}).get('compensate', True):
            _refuse_other_start(run, before, kept, layers)
    before = {**before, **(kept or {})}
    changes = {t: relative_change(before[t.name], after[t.name]) for t in layer_tensors(start.model, modules)
               if not (t.layer in left and t.kind != 'conv_weight')}
    drift = {name: statistics_drift(name, before, after, layer.eps)
             for name, layer in layers.items() if name not in left and layer.running_mean is not None}
    return MethodChanges(changes, drift, reference), notes


def _has_batch_norm(model: BaseSegmentor, modules: Sequence[str]) -> bool:
    return any(isinstance(layer, BatchNorm) for scope in modules for layer in model.get_submodule(scope).modules())


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


def converted_again(run: LoadedModel, start: LoadedModel, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors with which a converted run's training began, by its own pass over the same mini-batches.

    Raises:
        ValueError: The run's config is not in its checkpoint, or the result is not what the run recorded.
    """
    if not run.config:
        raise ValueError(f'{run.source} does not hold its config, so its conversion cannot be computed again. Leave '
                         'out --recompute-conversion.')
    cfg = Config.fromstring(run.config, '.py')
    cfg.train_dataloader.update(persistent_workers=False)
    model = copy.deepcopy(start.model)
    layers = {name: layer for name, layer in find_batch_norms(model, tuple(record['modules'])).items()
              if name in record['shifts']}
    forward, variant = ModelForward(model, layers), ConversionVariant(**record['variant'])
    with preserved_random_state():
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=record['seed'])
        target = TargetLoader(loader, record['seed'])
        if record['num_images'] < target.num_images:
            target = TargetLoader(loader, record['seed'], record['num_batches'])
        statistics = collect_statistics(model, layers, target, lambda batch: forward.train_path(forward.prepare(batch)),
                                        by_batch=not variant.compensate)
    for name, layer in layers.items():
        shift = torch.tensor(domain_shift(layer, statistics[name]))
        if not torch.allclose(shift, torch.tensor(record['shifts'][name]), rtol=1e-3, atol=1e-5):
            raise ValueError(f'{run.name}: computed again, the conversion of {name!r} is another than the run '
                             'recorded: the data, the pre-trained model or the number of processes differ. Leave out '
                             '--recompute-conversion.')
    convert(layers, statistics, variant)
    return state_of(layers)
