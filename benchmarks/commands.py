"""How fast the commands are: `--help` and `doctor` beside the import of mmseg, `analyze` beside inference alone.

    python benchmarks/commands.py [--images 500] [--image-size 375 500] [--repeats 5] [--only processes|analyze]

`doctor` examines VOC's DAFT config with weights at hand; its goal is 5 s, that of `--help` 1 s. `analyze` compares two
runs with their start, figures and report included, and its goal is 1.2 times the inference of the models. Data and
weights are made. Times are of the processor, those of child processes included: other jobs on the machine disturb them
less than wall time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tests'))

import measure
import torch
from gpu_checks import Sizes, made_start
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor
from mmseg.registry import DATASETS, MODELS
from support.data_layouts import write_voc
from support.small_runs import CONFIGS, DAFT_VOC, FT_VOC, slim_down
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from mmseg_daft import cli
from mmseg_daft.console import quiet

CPU = torch.device('cpu')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=500, help='that are analyzed')
    parser.add_argument('--image-size', type=int, nargs=2, default=(375, 500), help='height and width')
    parser.add_argument('--repeats', type=int, default=5, help='of the processes; the analysis runs twice')
    parser.add_argument('--only', choices=('processes', 'analyze'))
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--base-channels', type=int, default=64, help='64 is ResNet-50; less is for tests')
    parser.add_argument('--results', type=Path, default=measure.RESULTS)
    return parser.parse_args(argv)


def processes(folder: Path, start: Path) -> dict[str, Callable[[], Any]]:
    """Return the import of mmseg and two commands, each as a process of its own."""
    environment = dict(os.environ, VOC_ROOT=str(folder / 'voc'))

    def process(*words: str) -> Callable[[], Any]:
        def run() -> None:
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
            if done.returncode:
                raise RuntimeError(f'{" ".join(words)} failed: {done.stdout}{done.stderr}')
        return run

    command = ('-m', 'mmseg_daft')
    return {
        'import mmseg and mmseg_daft': process('-c', 'import mmseg_daft, mmseg.models'),
        'mmseg-daft --help': process(*command, '--help'),
        'mmseg-daft doctor': process(*command, 'doctor', str(CONFIGS / DAFT_VOC), '--cfg-options',
                                     f'model.backbone.init_cfg.checkpoint={start}')}


def analysis(folder: Path, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return inference by three models alone, by their backbones alone, and the analysis of the three."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIGS / FT_VOC)
    cfg.test_dataloader.dataset.data_root = cfg.val_dataloader.dataset.data_root = str(folder / 'voc')
    cfg.model.backbone.init_cfg = None
    for part in (cfg.model.backbone, cfg.model.decode_head):
        part.norm_cfg.type = 'BN'
    if args.base_channels != 64:
        slim_down(cfg.model)
    config = folder / 'config.py'
    cfg.dump(config)
    models, paths = [], []
    for seed, name in enumerate(('start', 'FT', 'DAFT')):
        torch.manual_seed(seed)
        models.append(MODELS.build(cfg.model).eval())
        paths.append(folder / f'{name}.pth')
        torch.save(dict(meta={}, state_dict=models[-1].state_dict()), paths[-1])
    dataset = DATASETS.build(cfg.test_dataloader.dataset)

    def inference(part: Callable[[BaseSegmentor, Tensor], Any]) -> None:
        loader = DataLoader(Subset(dataset, range(args.images)), 1, num_workers=2, collate_fn=pseudo_collate)
        with torch.no_grad():
            for data in loader:
                inputs = models[0].data_preprocessor(data, False)['inputs']
                for model in models:
                    part(model, inputs)

    def analyze() -> None:
        words = ['analyze', config, f'FT={paths[1]}', f'DAFT={paths[2]}', '--pretrained', paths[0], '--out',
                 folder / 'report']
        if cli.main(list(map(str, words))):
            raise RuntimeError('The analysis failed.')

    return {'the models alone': partial(inference, lambda model, inputs: model(inputs)),
            'their backbones alone': partial(inference, lambda model, inputs: model.backbone(inputs)),
            'mmseg-daft analyze': analyze}


def main() -> None:
    """Measure, print the tables, write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    tables = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'voc').mkdir()
        write_voc(folder / 'voc', 50, 50, args.images, tuple(args.image_size))
        if args.only != 'analyze':
            with quiet():
                start = made_start(folder, CPU, Sizes())
            tables['Commands as processes, of the processor, VOC\'s DAFT config'] = measure.compare(
                processes(folder, start), args.repeats, CPU, progress=False)
        if args.only != 'processes':
            height, width = args.image_size
            title = f'Analysis of {args.images} images of {width} x {height}, ResNet-50, of the processor'
            tables[title] = measure.compare(analysis(folder, args), 2, CPU, progress=False)
    for row in (row for rows in tables.values() for row in rows):
        row['seconds'] = row['processor_seconds']
    measure.show(tables)
    setting = {key: str(value) for key, value in vars(args).items() if key != 'results'}
    print(measure.save('commands', setting, tables, CPU, args.results))


if __name__ == '__main__':
    main()
