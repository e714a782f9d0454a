"""Doctor finds what would waste a run, names the fix, and lets a sound config pass."""

import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import timm
import torch
from mmseg.registry import MODELS
from support import ON_FORK
from support.data_layouts import write_cityscapes
from support.networks import pretrained
from support.pretrained_files import write_start
from support.small_runs import DAFT_VOC, SMALL, small

from mmseg_daft import cli
from mmseg_daft.doctor.data import known_count, ranges
from mmseg_daft.doctor.finding import Verdict
from mmseg_daft.doctor.weights import locate, size_at

ROOT = Path(__file__).parents[2]
OK, WARN, FAIL, SKIP = Verdict


def test_a_sound_config_has_every_check_and_no_problem(case, examine):
    exam = examine(case.write())
    assert exam.problems == 0 and not any(finding.verdict is SKIP for finding in exam.findings)
    for check in ('versions', 'mmcv ops', 'train data', 'val data', 'weights', 'classes', 'batch', 'rates',
                  'schedule', 'hooks', 'conversion', 'training step', 'GPU memory'):
        assert exam.text(check, OK), check
    assert '53 of 53 batch-norm layers' in exam.text('conversion', OK)
    assert '265 tensors match (100%)' in exam.text('weights', OK)


def assert_shown(output, findings, width):
    """Check that a screen is so wide at most, and that its cells are wrapped, not cut."""
    assert max(map(len, output.splitlines())) <= width and len(output.splitlines()) < 50 + ON_FORK
    text = ''.join(output.split())
    for finding in findings:
        if finding.check != 'training step':  # its loss is random
            assert ''.join(finding.found.split()) in text and ''.join(finding.fix.split()) in text, finding


@pytest.mark.slow
def test_the_command_ends_with_status_0_and_one_screen(case, examine):
    env = {name: value for name, value in os.environ.items() if name != 'COLUMNS'}
    done = subprocess.run([sys.executable, '-m', 'mmseg_daft', 'doctor', case.write()], capture_output=True, text=True,
                          cwd=ROOT, env=env)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == 'Ready.' and not done.stderr
    assert_shown(done.stdout, examine(case.write()).findings, width=100)


def test_a_broken_config_ends_with_status_1_and_one_screen(case, examine, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    case.image.write_bytes(case.image.read_bytes()[:-300])
    case.cfg.model.type = 'EncoderDecodr'
    assert cli.main(['doctor', str(case.write())]) == 1
    output, errors = capsys.readouterr()
    assert output.splitlines()[-1] == '2 problems would waste this run.' and 'Traceback' not in output + errors
    exam = examine(case.write())
    assert_shown(output, exam.findings, width=80)
    assert exam.problems == 2 and 'EncoderDecodr' in exam.text('model', FAIL)
    assert 'because of a problem above' in exam.text('weights', SKIP)
    assert 'because of a problem above' in exam.text('GPU memory', SKIP)


def no_root(case):
    for part in case.parts:
        part.data_root = '/nowhere/VOC2012'


def no_list(case):
    (case.root / 'ImageSets' / 'Segmentation' / 'aug.txt').unlink()


def missing_label(case):
    case.label.unlink()


def truncated_image(case):
    case.image.write_bytes(case.image.read_bytes()[:-300])


def text_as_image(case):
    case.image.write_text('<html>404</html>')


def truncated_label(case):
    case.label.write_bytes(case.label.read_bytes()[:60])


def label_outside(case):
    case.put(30)


def label_of_one_more_class(case):
    case.put(21)


def reduced_without_need(case):
    for part in case.parts:
        part.reduce_zero_label = True


def label_of_16_bits(case):
    cv2.imwrite(str(case.label), np.full((60, 80), 256 + 3, np.uint16))


def classes_as_a_text(case):
    for part in case.parts:
        part.update(type='BaseSegDataset', metainfo=dict(classes='road'), img_suffix='.jpg', seg_map_suffix='.png')


def classes_beyond_8_bits(case):
    for part in case.parts:
        part.update(type='BaseSegDataset', metainfo=dict(classes=[f'c{i}' for i in range(300)]), img_suffix='.jpg',
                    seg_map_suffix='.png')


def colored_label(case):
    cv2.imwrite(str(case.label), np.zeros((60, 80, 3), np.uint8))


def label_of_another_size(case):
    cv2.imwrite(str(case.label), np.zeros((30, 40), np.uint8))


def all_ignored(case):
    for path in (case.root / 'SegmentationClass').iterdir():
        cv2.imwrite(str(path), np.full((60, 80), 255, np.uint8))


def no_labels_loaded(case):
    for part in case.parts:
        part.pipeline = [transform for transform in part.pipeline if transform['type'] != 'LoadAnnotations']


def other_weights(case):
    case.cfg.model.backbone.init_cfg.pop('prefix')


def no_weights_file(case):
    case.weights.unlink()


def torn_weights(case):
    case.weights.write_bytes(case.weights.read_bytes()[:5000])


def unreachable_weights(case):
    case.cfg.model.backbone.init_cfg.checkpoint = 'http://127.0.0.1:9/x.pth'


def unreachable_archive(case):
    case.cfg.model.backbone.init_cfg.checkpoint = 'torchscript://http://127.0.0.1:9/x.pt'


def no_weights_at_all(case):
    case.cfg.model.backbone.init_cfg = None


def weights_with(name, value):
    def damage(case):
        content = torch.load(case.weights)
        content['state_dict'][f'module.encoder_q.{name}'][0] = value
        torch.save(content, case.weights)
    return damage


def load_from_nan(case):
    name = 'backbone.layer1.0.bn1.running_mean'
    state = MODELS.build(case.cfg.model).state_dict()
    torch.save({'state_dict': {**state, name: torch.full_like(state[name], torch.nan)}}, case.folder / 'other.pth')
    case.cfg.load_from = str(case.folder / 'other.pth')


def setting(**options):
    def damage(case):
        case.cfg.merge_from_dict({name.replace('__', '.'): value for name, value in options.items()})
    return damage


def load_from_others(case):
    torch.save({'state_dict': {'encoder.weight': torch.zeros(3)}}, case.folder / 'other.pth')
    case.cfg.load_from = str(case.folder / 'other.pth')


def other_classes(case):
    case.cfg.model.decode_head.num_classes = 19


def learned_padding(case):
    case.cfg.model.data_preprocessor.seg_pad_val = 0


def missing_package(case):
    case.cfg.custom_imports = dict(imports=['mmseg_daft', 'nowhere.models'], allow_failed_imports=True)
    case.cfg.model.decode_head.type = 'HeadOfThatPackage'


def floor_above_rate(case):
    case.cfg.param_scheduler[0].eta_min = 0.05


def missing_rate(case):
    del case.cfg.optim_wrapper.paramwise_cfg['head_lr']


def no_batch_norm(case):
    case.cfg.model.backbone.norm_cfg = dict(type='GN', num_groups=2)


def misspelt_modules(case):
    case.cfg.custom_hooks[0].modules = ('backbone.layer5',)


def nothing_left_to_train_at(case):
    case.cfg.param_scheduler[0].end = 8


def more_batches_than_there_are(case):
    case.cfg.custom_hooks[0].num_batches = 500


def misspelt_hook(case):
    case.cfg.custom_hooks[0].type = 'BNConversionHok'


def misspelt_key(case):
    case.cfg.custom_hook = case.cfg.pop('custom_hooks')


def compiled_op(case):
    case.cfg.model.decode_head.loss_decode = dict(type='FocalLoss')


def endless_loss(case):
    case.cfg.model.data_preprocessor.std = [0, 0, 0]


@pytest.mark.parametrize('damage, check, found, fix', [
    (no_root, 'train data', 'data_root /nowhere/VOC2012 of PascalVOCDataset does not exist', 'Set data_root in'),
    (no_list, 'train data', 'Segmentation/aug.txt of PascalVOCDataset does not exist', 'set ann_file'),
    (missing_label, 'train data', '1 files are missing: ', 'seg_map_suffix'),
    (truncated_image, 'train data', '1 files cannot be read: ', 'unpack them again'),
    (text_as_image, 'train data', '2007_train0003.jpg (not an image)', 'unpack them again'),
    (truncated_label, 'train data', '2007_train0003.png', 'unpack them again'),
    (label_outside, 'train data', '2007_train0003.png (30)', 'Rewrite them as class numbers'),
    (label_of_one_more_class, 'train data', '2007_train0003.png (21)', 'reduce_zero_label=True'),
    (reduced_without_need, 'train data', 'class 20 would stay empty', 'Set reduce_zero_label=False'),
    (label_of_16_bits, 'train data', '2007_train0003.png (up to 259)', 'as 8 bits'),
    (classes_as_a_text, 'train data', "one text, 'road', which names no file", 'a list of names, or to a file'),
    (classes_as_a_text, 'classes', "one text, 'road', which names no file", 'a list of names, or to a file'),
    (classes_beyond_8_bits, 'train data', '300 classes, and labels of 8 bits', 'Join classes'),
    (colored_label, 'train data', 'colors, not class numbers', 'one channel'),
    (label_of_another_size, 'train data', '80x60, label 40x30', 'has its image'),
    (all_ignored, 'train data', '7 labels of 7 read ignore every pixel', 'check the labels'),
    (no_labels_loaded, 'train data', 'does not load labels', 'LoadAnnotations'),
    (other_weights, 'weights', 'does not match: 0 of 265', "prefix='module.encoder_q'"),
    (no_weights_file, 'weights', 'there is no such file', 'Put it there'),
    (torn_weights, 'weights', 'cannot be read', 'If it was copied or downloaded, get it again'),
    (unreachable_weights, 'weights', 'http://127.0.0.1:9/x.pth, prefix module.encoder_q: cannot be reached',
     'hub/checkpoints/x.pth'),
    (unreachable_archive, 'weights', 'cannot be reached', 'hub/checkpoints/x-'),
    (no_weights_at_all, 'weights', 'BNConversionHook needs one', 'init_cfg'),
    (weights_with('bn1.running_var', -1), 'weights', 'bn1.running_var holds negative variances', 'earlier checkpoint'),
    (weights_with('bn1.running_mean', torch.nan), 'weights', 'bn1.running_mean holds NaN', 'get the file again'),
    (weights_with('layer1.0.bn1.running_var', torch.inf), 'weights', 'running_var holds NaN or inf', 'earlier'),
    (weights_with('layer1.0.conv1.weight', torch.nan), 'weights', 'conv1.weight holds NaN', 'earlier checkpoint'),
    (load_from_nan, 'weights', 'backbone.layer1.0.bn1.running_mean holds NaN', 'earlier checkpoint'),
    (setting(train_dataloader__batch_size=0), 'batch', 'batch_size=0: nothing can be trained', 'at least 1'),
    (setting(train_dataloader__batch_size=-4), 'batch', 'batch_size=-4: nothing can be trained', 'at least 1'),
    (setting(train_cfg__max_iters=0), 'batch', 'max_iters=0: nothing can be trained', 'at least 1'),
    (setting(optim_wrapper__accumulative_counts=0), 'batch', 'accumulative_counts=0: nothing', 'at least 1'),
    (load_from_others, 'weights', 'load_from', 'Correct prefix or the file'),
    (other_classes, 'classes', 'num_classes=19, the data of train_dataloader, val_dataloader, test_dataloader 21',
     'model.decode_head.num_classes=21'),
    (learned_padding, 'classes', 'it would learn the padding', 'seg_pad_val=255'),
    (missing_package, 'model', 'HeadOfThatPackage', 'Install nowhere.models'),
    (floor_above_rate, 'schedule', 'eta_min=0.05, above backbone_lr=0.01', 'Set eta_min=0'),
    (missing_rate, 'rates', 'paramwise_cfg lacks head_lr', 'head_lr=0.1'),
    (no_batch_norm, 'conversion', 'hold no batch-norm layer', 'fine-tune without the conversion'),
    (misspelt_modules, 'conversion', "no submodule 'backbone.layer5'", "'backbone.layer4'"),
    (nothing_left_to_train_at, 'schedule', 'max_iters=10: nothing is trained in the rest', 'end=10'),
    (more_batches_than_there_are, 'conversion', 'num_batches=500', 'Leave num_batches out'),
    (misspelt_hook, 'hooks', 'BNConversionHok is not registered', 'Check its spelling'),
    (misspelt_key, 'config', 'custom_hook: nothing reads it', 'if custom_hooks is meant'),
    (compiled_op, 'mmcv ops', 'FocalLoss of this model calls one', "pip install 'mmcv>=2.1,<2.2'"),
    (endless_loss, 'training step', 'not finite', 'normalization'),
], ids=lambda value: getattr(value, '__name__', ''))
def test_what_would_waste_a_run_is_found_with_its_fix(case, examine, monkeypatch, damage, check, found, fix):
    monkeypatch.setattr('mmseg_daft.doctor.environment.has_compiled_ops', lambda: False)
    damage(case)
    exam = examine(case.write())
    text = exam.text(check, FAIL)
    assert exam.problems and found in text and fix in text, exam.findings


@pytest.mark.skipif(ON_FORK, reason='the data preprocessor of onedl-mmsegmentation refuses four channels')
def test_other_numbers_of_channels_also_where_the_data_cannot_be_used(case, examine):
    no_root(case)
    case.cfg.model.backbone.update(in_channels=4, init_cfg=None)
    case.cfg.model.data_preprocessor.update(mean=[0] * 4, std=[1] * 4, bgr_to_rgb=False)
    exam = examine(case.write())
    assert 'images of noise' in exam.text('training step', OK)


@pytest.mark.parametrize('gpus', ['0', '-1', 'two'])
def test_a_run_on_no_gpus_is_refused(case, capsys, gpus):
    with pytest.raises(SystemExit):
        cli.main(['doctor', str(case.write()), '--gpus', gpus])
    assert 'argument --gpus: give a whole number of at least 1' in ' '.join(capsys.readouterr().err.split())


def with_classes_of_a_file(case):
    names = case.folder / 'classes.txt'
    names.write_text('\n'.join(f'class {i}' for i in range(21)) + '\n')
    for part in [*case.parts, case.cfg.test_dataloader.dataset]:
        part.update(type='BaseSegDataset', metainfo=dict(classes=str(names)), img_suffix='.jpg', seg_map_suffix='.png')


def with_ignored_200(case):
    for name in ('decode_head', 'auxiliary_head'):
        if name in case.cfg.model:
            case.cfg.model[name].ignore_index = 200
    case.cfg.model.data_preprocessor.seg_pad_val = 200
    for path in case.root.glob('SegmentationClass*/*.png'):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        label[label == 255] = 200
        cv2.imwrite(str(path), label)


def with_a_label_in_16_bits(case):
    label = cv2.imread(str(case.label), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(case.label), label.astype(np.uint16))


@pytest.mark.parametrize('change', [with_classes_of_a_file, with_ignored_200, with_a_label_in_16_bits])
def test_what_trains_right_is_no_problem(case, examine, change):
    change(case)
    exam = examine(case.write())
    assert exam.problems == 0, [f for f in exam.findings if f.verdict is FAIL]


def test_images_beyond_pillow_s_limit(case, examine, monkeypatch):
    """OpenCV reads them; labels are read by Pillow, unless the config says otherwise."""
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 1000)
    exam = examine(case.write())
    text = exam.text('train data', FAIL)
    assert 'larger than Pillow reads' in text and "imdecode_backend='cv2'" in text and 'cannot be read' not in text
    for part in case.parts:
        for transform in part.pipeline:
            if transform['type'] == 'LoadAnnotations':
                transform['imdecode_backend'] = 'cv2'
    assert examine(case.write()).problems == 0


def test_what_may_be_meant_only_warns(case, examine):
    case.cfg.param_scheduler[0].update(end=8, eta_min=1e-6)
    case.cfg.pop('custom_imports')
    exam = examine(case.write(), '--gpus', 2)
    assert exam.problems == 0
    batch = exam.text('batch', WARN)
    assert '8 images an optimizer step: 4 per GPU x 2 GPUs' in batch and 'train_dataloader.batch_size=2' in batch
    assert 'Add custom_imports' in exam.text('hooks', WARN)
    assert 'ends at 8, training at max_iters=10' in exam.text('schedule', WARN)
    assert 'released split has 1464' in exam.text('train data', WARN)


def test_full_reads_everything_and_names_classes_that_never_occur(case, examine):
    exam = examine(case.write(), '--full')
    assert exam.problems == 0 and 'classes never occur' in exam.text('val data', WARN)
    assert '7 images; 7 read' in exam.text('train data', OK)


def test_weights_at_an_address_are_asked_for_then_downloaded_by_full_and_compared(case, examine, monkeypatch):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass
    monkeypatch.setenv('TORCH_HOME', str(case.folder / 'torch'))
    monkeypatch.setattr('mmseg_daft.doctor.weights.TIMEOUT', 600)
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(case.folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    try:
        case.cfg.model.backbone.init_cfg.checkpoint = f'{address}/{case.weights.name}'
        config = case.write()
        exam = examine(config)
        text = exam.text('weights', OK)
        assert exam.problems == 0 and 'reachable, 1 MB' in text and 'not downloaded yet' in text
        assert not list(case.folder.glob('torch/**/*.tar'))
        exam = examine(config, '--full')
        assert exam.problems == 0 and '265 tensors match (100%)' in exam.text('weights', OK)
        exam = examine(config, '--cfg-options', f'model.backbone.init_cfg.checkpoint={address}/other.pth')
        assert exam.problems and '404' in exam.text('weights', FAIL)
    finally:
        server.shutdown()
        server.server_close()
    exam = examine(config)  # without a network, from the cache
    assert exam.problems == 0 and '265 tensors match (100%)' in exam.text('weights', OK)


def test_a_folder_without_a_list_must_hold_all_images(tmp_path, examine):
    root = write_cityscapes(tmp_path / 'cityscapes')
    name = DAFT_VOC.replace('voc12aug-513x513', 'cityscapes-768x768')
    cfg = small(name, tmp_path / 'run', root, iters=10)
    write_start(cfg, tmp_path)
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'config.py')
    exam = examine(tmp_path / 'config.py')
    text = exam.text('train data', FAIL)
    assert exam.problems and 'the released split has 2975' in text and 'Unpack the archive again' in text
    assert exam.problems == 2


@pytest.mark.parametrize('text, options, found', [
    (None, (), 'There is no config'), ('model = dict(', (), 'Line 1: '), ('x = 1', (), 'lacks model'),
    ("_base_ = 'nowhere.py'", (), 'nowhere.py'), ("custom_imports = dict(imports=['nowhere'])", (), 'need nowhere'),
    ('x = 1', ('--cfg-options', 'novalue'), 'not KEY=VALUE of'), ('', (), 'lacks model'),
    ("x = '\xe9'", (), 'as UTF-8'), ('model = [(1, 2]', (), 'Line 1: '),
    ('x = 1', ('--cfg-options', 'x=[1,(2]'), 'Imbalanced brackets'),
    ('custom_hooks = [dict()]', ('--cfg-options', 'custom_hook.0.blend=0.5'), 'Is custom_hooks meant?'),
    ('x = 1', ('--cfg-options', 'custom_hooks.0.blend=0.5'), 'no custom_hooks with items')])
def test_a_config_that_cannot_be_read_is_named(tmp_path, examine, text, options, found):
    if text is not None:
        (tmp_path / 'config.py').write_bytes(text.encode('latin-1'))
    exam = examine(tmp_path / 'config.py', *options)
    assert exam.problems and found in exam.text('config', FAIL), exam.findings
    assert 'not checked' in exam.text('the rest', SKIP)


def test_options_reach_the_config_and_environment_variables_are_named(examine, tmp_path):
    exam = examine(SMALL / 'ft.py',
                             '--cfg-options', 'train_dataloader.dataset.data_root=/nowhere',
                             'model.backbone.init_cfg=None', 'train_dataloader.batch_size=4',
                             'optim_wrapper.accumulative_counts=2')
    assert exam.problems and 'export SHAPES_ROOT=/path/to/data' in exam.text('train data', FAIL)
    assert 'from scratch' in exam.text('weights', WARN)
    assert '8 images an optimizer step' in exam.text('batch', OK)
    assert 'images of noise' in exam.text('training step', OK)


def test_a_part_that_the_file_lacks_as_a_whole(case, examine):
    content = torch.load(case.weights)
    content['state_dict'] = {name: tensor for name, tensor in content['state_dict'].items() if '.layer4.' not in name}
    torch.save(content, case.weights)
    assert 'nothing of layer4' in examine(case.write()).text('weights', FAIL)
    del case.cfg.default_hooks.pretrained
    case.cfg.custom_hooks[0].modules = ['backbone.layer2', 'backbone.layer3']
    exam = examine(case.write())
    assert exam.problems == 0 and 'nothing of layer4, which starts from random' in exam.text('weights', WARN)


def test_void_that_no_loss_ignores(case, examine):
    case.cfg.model.decode_head.ignore_index = case.cfg.model.data_preprocessor.seg_pad_val = 200
    assert '255' in examine(case.write()).text('train data', FAIL)


def test_a_backbone_that_loads_its_weights_itself(case, examine, tmp_path):
    torch.manual_seed(0)
    torch.save(pretrained(timm.create_model('resnet18')).state_dict(), tmp_path / 'timm.pth')
    case.cfg.model.backbone = dict(
        type='TIMMBackbone', model_name='resnet18', features_only=True, pretrained=True, out_indices=(1, 2, 3, 4),
        pretrained_cfg_overlay=dict(file=str(tmp_path / 'timm.pth')))
    case.cfg.model.decode_head.update(in_channels=512, c1_in_channels=64)
    exam = examine(case.write())
    assert exam.problems == 0 and 'backbone loads its weights itself' in exam.text('weights', WARN)
    case.cfg.model.backbone.update(model_name='regnetx_002')
    case.cfg.model.decode_head.update(in_channels=368, c1_in_channels=24)
    exam = examine(case.write())
    assert 'the statistics of a new layer: its file is not that of this network' in exam.text('weights', FAIL)


def test_efficientnet_lite_that_is_not_installed(case, examine):
    case.cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='efficientnet-lite://lite3')
    assert 'there are lite0, lite1, lite2' in examine(case.write()).text('weights', FAIL)


def test_addresses_and_small_words(tmp_path):
    assert locate('torchvision://resnet50')[0].startswith('https://download.pytorch.org/models/resnet50')
    assert locate('torchscript://a/b.pt')[0] == 'a/b.pt' and locate('a.pth') == ('a.pth', 'a.pth')
    assert locate(f'torchscript://https://x.org/{"0123456789abcdef" * 4}/RN50.pt')[1].endswith('/RN50-01234567.pt')
    (tmp_path / 'x.pth').write_bytes(b'12345')
    assert size_at((tmp_path / 'x.pth').as_uri()) == 5
    assert ranges([0, 1, 2, 5, 255]) == '0-2, 5, 255'

    def known(kind, ann_file, img_path):
        return known_count(type(kind, (), {'ann_file': ann_file, 'data_prefix': {'img_path': img_path}})())
    assert [known('PascalVOCDataset', f'x/{split}.txt', '') for split in ('train', 'aug', 'val', 'half')] == [
        1464, 9118, 1449, None]
    assert known('CityscapesDataset', '', 'leftImg8bit/train') == 2975 and known('CamVidDataset', '', 'train') is None
