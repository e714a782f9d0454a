"""The demo's measurements: what fine-tuning did to the source model, and the picture of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2

import mmseg_daft  # noqa: F401  (repairs what mmseg needs, so it comes first)

# isort: split
from demo_runs import Demo
from mmengine.runner import Runner
from mmseg.apis import init_model
from mmseg.models import BaseSegmentor
from torch import Tensor

from mmseg_daft.analysis.comparison_picture import MethodChange, Scene, draw_comparison
from mmseg_daft.analysis.feature_distortion import FeatureDistortion, measure_distortion
from mmseg_daft.analysis.parameter_change import relative_changes
from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import convert
from mmseg_daft.core.statistics import collect_statistics
from mmseg_daft.datasets import ShapesDataset
from mmseg_daft.engine.model_forward import ModelForward
from mmseg_daft.engine.target_loader import TargetLoader

METHODS = {'ft': 'FT', 'daft': 'DAFT'}


def load(demo: Demo, run: str) -> BaseSegmentor:
    """Return a run's final model in test mode."""
    with redirect_stdout(StringIO()):  # MMEngine prints the name of each checkpoint
        return init_model(demo.config(run), str(demo.checkpoint(run)), device='cpu')


def converted_source(demo: Demo) -> BaseSegmentor:
    """Return the model with which DAFT's training began: the source model after the conversion.

    The same pass over the same mini-batches as ``BNConversionHook`` made, which kept no copy of it.
    """
    model = load(demo, 'source')
    layers = find_batch_norms(model, ('backbone',))
    forward = ModelForward(model, layers)
    loader = TargetLoader(Runner.build_dataloader(demo.config('daft').train_dataloader, seed=demo.seed), demo.seed)
    statistics = collect_statistics(
        model, layers, loader, lambda batch: forward.train_path(forward.prepare(batch)))
    convert(layers, statistics)
    return model


def distortions(demo: Demo) -> dict[str, FeatureDistortion]:
    """Compare the backbone's features of the target's validation images with the source model's."""
    before = load(demo, 'source')
    dataloader = demo.config('ft').val_dataloader
    dataloader.persistent_workers = False
    batches = list(Runner.build_dataloader(dataloader))
    return {run: measure_distortion(batches, _features(before), _features(load(demo, run))) for run in METHODS}


def _features(model: BaseSegmentor) -> Callable[[Any], Tensor]:
    def last_feature_map(batch: Any) -> Tensor:
        return model.extract_feat(model.data_preprocessor(batch, False)['inputs'])[-1]
    return last_feature_map


def statistics_changes(demo: Demo) -> dict[str, dict[str, dict[str, float]]]:
    """Return by run, then by statistic, each layer's relative change in fine-tuning (Eq. 6 of the paper)."""
    starts = {'ft': load(demo, 'source'), 'daft': converted_source(demo)}
    changes: dict[str, dict[str, dict[str, float]]] = {}
    for run, start in starts.items():
        layers = list(find_batch_norms(start, ('backbone',)))
        before, after = start.state_dict(), load(demo, run).state_dict()
        changes[run] = {
            statistic: relative_changes(before, after, layers, statistic)
            for statistic in ('running_mean', 'running_var')}
    return changes


def draw(demo: Demo, measured: dict[str, FeatureDistortion], path: Path, rows: int = 4) -> None:
    """Draw the picture, with the first validation images of the target as examples."""
    root = demo.folder / 'data' / 'target'
    listing = (root / 'ImageSets' / 'Segmentation' / 'val.txt').read_text(encoding='utf-8').split()
    titles = {'source': 'source model', **METHODS}
    scenes = [
        Scene(
            image=cv2.cvtColor(cv2.imread(str(root / 'JPEGImages' / f'{name}.jpg')), cv2.COLOR_BGR2RGB),
            truth=_read_ids(root / 'SegmentationClass' / f'{name}.png'),
            predictions={
                title: _read_ids(demo.predictions(run, 'target') / f'{name}.png') for run, title in titles.items()})
        for name in listing[:rows]]
    statistics = statistics_changes(demo)
    changes = {
        title: MethodChange(statistics[run], measured[run].cosine_similarity.tolist())
        for run, title in METHODS.items()}
    draw_comparison(
        scenes, changes, ShapesDataset.METAINFO['classes'], ShapesDataset.METAINFO['palette'],
        'The first validation images of the target domain, as three models see them', path)


def _read_ids(path: Path) -> Any:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)

