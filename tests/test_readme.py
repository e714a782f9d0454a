"""The lines that the README tells users to paste into their own config, pasted into one that mmseg ships."""

import re
from pathlib import Path

import mmseg
from mmengine.config import Config
from pretrained_files import write_mmseg
from small_runs import train

from mmseg_daft.engine.bn_conversion_hook import RECORD

README = (Path(__file__).parents[1] / 'README.md').read_text()
SHIPPED = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'pspnet' / 'pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py'


def small_shipped(tmp_path, voc_root):
    """mmseg's PSPNet on VOC with sizes turned down, as a config file."""
    cfg = Config.fromfile(SHIPPED)
    cfg.model.update(pretrained=None, test_cfg=dict(mode='whole'))
    cfg.model.backbone.update(stem_channels=4, base_channels=4)
    cfg.model.decode_head.update(in_channels=128, channels=8)
    cfg.model.auxiliary_head.update(in_channels=64, channels=8)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'start.pth'), prefix='backbone')
    cfg.model.data_preprocessor.size = (32, 32)
    write_mmseg(tmp_path / 'start.pth', cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for part in loader.dataset.get('datasets', [loader.dataset]):
            part.data_root = str(voc_root)
            for transform in part.pipeline:
                if transform['type'] in ('RandomCrop', 'Pad'):
                    transform.update({'crop_size' if transform['type'] == 'RandomCrop' else 'size': (32, 32)})
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.dump(tmp_path / 'shipped.py')


def test_the_lines_to_paste_make_daft_of_a_shipped_config(tmp_path, voc_root):
    block = re.search(r'```python\n(.*?)```', README, re.DOTALL).group(1)
    assert len(block.splitlines()) <= 5
    small_shipped(tmp_path, voc_root)
    (tmp_path / 'mine.py').write_text(f"_base_ = './shipped.py'\nwork_dir = {str(tmp_path / 'run')!r}\n{block}")
    runner = train(Config.fromfile(tmp_path / 'mine.py'))
    record = runner.message_hub.get_info(RECORD)
    assert record['num_images'] == 13 and len(record['shifts']) == 55  # the stem of ResNetV1c has 3 layers
    assert set(runner.optim_wrapper.get_lr()) == {'backbone_lr', 'head_lr'}


def test_nothing_is_left_to_fill_in():
    for page in Path(__file__).parents[1].glob('**/*.md'):
        if '.venv' not in str(page):
            assert not re.search(r'@[A-Z]+@|TODO', page.read_text()), page


def test_every_file_and_target_it_names_exists():
    root = Path(__file__).parents[1]
    for path in re.findall(r'\]\(([^)#]+)\)', README):
        assert path.startswith('http') or (root / path).exists(), path
    for path in re.findall(r'\b(?:configs|tools)/[\w./-]+\.py', README):
        assert (root / path).is_file(), path
    targets = set(re.findall(r'^([\w-]+):', (root / 'Makefile').read_text(), re.MULTILINE))
    assert set(re.findall(r'make ([a-z-]+)', README)) <= targets
