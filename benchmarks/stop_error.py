"""How near a pass that stops when its statistics are known comes to the whole one: CamVid, from day to dusk.

    CAMVID_ROOT=/path/to/camvid python benchmarks/stop_error.py CHECKPOINT [--times 40] [--errors 0.04 0.02 0.01]

CHECKPOINT is the day's model (configs/source). The dusk's 62 training images are there under --times names each, which
are augmented apart, as a larger data set would be: under one name a pass takes an image once. A difference is a layer's
root mean square over its channels, of means in standard deviations of the target and of variances relative to them; γ
has half the one and β γ times the other. The table has the worst layer's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tests'))

import measure
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmseg.registry import MODELS
from rich.console import Console
from rich.progress import track
from rich.table import Table
from support.data_layouts import link_under_names
from torch import nn

from mmseg_daft.core.batch_norm import BatchNorm, find_batch_norms
from mmseg_daft.core.statistics import LayerStatistics, collect_statistics
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.engine.training_data import ModelForward, TargetLoader

CONFIG = Path(__file__).resolve().parents[1] / 'configs/daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'


def worst_layer(
    found: Mapping[str, LayerStatistics], right: Mapping[str, LayerStatistics], layers: Mapping[str, BatchNorm],
) -> tuple[float, float]:
    """Return the worst layer's difference of the means, in standard deviations, and of the variances, relative."""
    means, variances = [], []
    for name, layer in layers.items():
        var = right[name].var + layer.eps
        means.append(float(((found[name].mean - right[name].mean) / var.sqrt()).square().mean().sqrt()))
        variances.append(float(((found[name].var - right[name].var) / var).square().mean().sqrt()))
    return max(means), max(variances)


def measured(
    model: nn.Module, layers: Mapping[str, BatchNorm], loader: TargetLoader, errors: Sequence[float],
) -> list[dict[str, Any]]:
    """Return the whole pass and one for each ``stop_error``, a row each."""
    rows, whole, forward = [], {}, ModelForward(model, layers)
    for error in (None, *errors):
        start = time.perf_counter()
        found = collect_statistics(
            model, layers, track(loader, f'stop_error={error}', transient=True),
            lambda batch: forward.run(forward.prepare(batch)), stop=error and StopRule(error))
        whole = whole or found
        worst = worst_layer(found, whole, layers)
        rows.append(dict(stop_error=error, batches=loader.rounds, of=len(loader), worst_mean=worst[0],
                         worst_variance=worst[1], seconds=time.perf_counter() - start))
    return rows


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint')
    parser.add_argument('--times', type=int, default=40)
    parser.add_argument('--errors', type=float, nargs='+', default=[0.04, 0.02, 0.01])
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    args = parser.parse_args()
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(init_cfg=None, norm_cfg=dict(type='BN'))
    model = MODELS.build(cfg.model)
    load_checkpoint(model, args.checkpoint, map_location='cpu')
    layers = find_batch_norms(model, ('backbone',))
    data = cfg.train_dataloader
    data.update(num_workers=0, persistent_workers=False)
    root = data.dataset.data_root
    with TemporaryDirectory() as folder:
        data.dataset.data_root = folder
        link_under_names(Path(root), Path(folder), args.times)
        rows = measured(model, layers, TargetLoader(Runner.build_dataloader(data, seed=0), seed=0), args.errors)
    table = Table('stop_error', 'mini-batches', 'worst mean', 'worst variance', 'time')
    for row in rows:
        table.add_row(str(row['stop_error']), f'{row["batches"]} of {row["of"]}', f'{row["worst_mean"]:.2%}',
                      f'{row["worst_variance"]:.2%}', f'{row["seconds"]:.0f} s')
    Console().print(table)
    content = dict(machine=measure.machine(torch.device('cpu')), setting=dict(times=args.times), rows=rows)
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / 'stop_error.json'
    path.write_text(json.dumps(content, indent=1) + '\n')
    print(path)


if __name__ == '__main__':
    main()
