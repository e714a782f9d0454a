"""The lines that the README tells users to paste into their own config, pasted into one that mmseg ships."""

import re
from pathlib import Path

from support.shipped_configs import lines_to_paste, paste
from support.small_runs import train

from mmseg_daft.engine.convert_model import RECORD

README = (Path(__file__).parents[1] / 'README.md').read_text()


def test_the_lines_to_paste_make_daft_of_a_shipped_config(tmp_path, voc_root):
    """Many more families: tests/configs/test_any_mmseg_model.py."""
    assert len(lines_to_paste().splitlines()) <= 5
    runner = train(paste('pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py', tmp_path, voc_root, **{
        'model.backbone.stem_channels': 4, 'model.backbone.base_channels': 4, 'model.decode_head.in_channels': 128,
        'model.decode_head.channels': 8, 'model.auxiliary_head.in_channels': 64, 'model.auxiliary_head.channels': 8}))
    record = runner.message_hub.get_info(RECORD)
    assert record['num_images'] == 13 and len(record['shifts']) == 55  # the stem of ResNetV1c has 3 layers
    assert set(runner.optim_wrapper.get_lr()) == {'backbone_lr', 'head_lr'}


def test_nothing_is_left_to_fill_in():
    root = Path(__file__).parents[1]
    for page in (page for folder in ('', 'configs', 'docs', 'benchmarks') for page in (root / folder).glob('*.md')):
        assert not re.search(r'@[A-Z]+@|TODO', page.read_text()), page


def test_every_file_and_target_it_names_exists():
    root = Path(__file__).parents[1]
    for path in re.findall(r'\]\(([^)#]+)\)', README):
        assert path.startswith('http') or (root / path).exists(), path
    for path in re.findall(r'\b(?:configs|tools)/[\w./-]+\.py', README):
        assert (root / path).is_file(), path
    targets = set(re.findall(r'^([\w-]+):', (root / 'Makefile').read_text(), re.MULTILINE))
    assert set(re.findall(r'make ([a-z-]+)', README)) <= targets
