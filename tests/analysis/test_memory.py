"""The memory of an analysis: that of a few images, however many there are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.data_layouts import write_voc
from support.distortion_case import rows
from support.pretrained_files import trained_state
from support.small_runs import SMALL, small

ROOT = Path(__file__).parents[2]
SIZE = (192, 256)
MARGIN = 16 * 2**20  # measured: 5 MiB, of the allocator and of the few numbers that are kept of each image
FEATURES = 4 * (4 * 48 * 64 + 8 * 24 * 32 + (16 + 32) * 12 * 16)  # bytes of an image's maps of all stages, float32


def peak(config, images, out):
    """Run the command on so many images and return the most bytes that its process held."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'mmseg_daft', 'analyze', str(config), f'FT={config.parent / "ft.pth"}',
         '--pretrained', str(config.parent / 'start.pth'), '--images', str(images), '--workers', '0', '--no-sheets',
         '--formats', 'png', '--out', str(out)], cwd=ROOT, stdout=subprocess.DEVNULL,
        env={**os.environ, 'MALLOC_ARENA_MAX': '1'})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    seen = rows(out / 'numbers.csv', level='image', measure='cosine_similarity', statistic='value', stage='1')
    assert len(seen) == images
    return usage.ru_maxrss * 1024


@pytest.mark.slow
def test_three_hundred_images_need_no_more_memory_than_five(tmp_path):
    write_voc(tmp_path / 'data', val=300, size=SIZE, num_classes=6)
    cfg = small(SMALL / 'ft.py', tmp_path / 'work', tmp_path / 'data')
    cfg.model.backbone.init_cfg = None
    for seed, name in enumerate(('start', 'ft')):
        torch.save({'state_dict': trained_state(cfg.model, seed)}, tmp_path / f'{name}.pth')
    cfg.pop('experiment_name')
    config = tmp_path / 'config.py'
    config.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    few, many = (peak(config, images, tmp_path / f'out{images}') for images in (5, 300))
    assert 2 * 295 * FEATURES > 3 * MARGIN, 'two models\' maps would have to show'
    assert many - few < MARGIN, f'{(many - few) / 2**20:.0f} MiB more'
