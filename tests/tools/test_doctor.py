"""The doctor finds what would waste a run, names the fix, and lets a sound config pass."""

import gc
import json
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
import torch
from support.data_layouts import write_cityscapes, write_voc
from support.pretrained_files import write_start
from support.small_runs import DAFT_VOC, small
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))

import doctor  # noqa: E402

from mmseg_daft.doctor.config import build_model, read_config  # noqa: E402
from mmseg_daft.doctor.data import known_count  # noqa: E402
from mmseg_daft.doctor.finding import Examination, Verdict, ok  # noqa: E402
from mmseg_daft.doctor.labels import ranges  # noqa: E402
from mmseg_daft.doctor.memory import check_memory, optimizer_state_bytes, saved_bytes, training_step  # noqa: E402
from mmseg_daft.doctor.training import build_optimizer  # noqa: E402
from mmseg_daft.doctor.versions import check_ops, check_versions  # noqa: E402
from mmseg_daft.doctor.weights import local_file, resolve, size_at  # noqa: E402

MB = 2**20


class Case:
    """A small sound config with data and weights of its own, to be broken."""

    def __init__(self, folder):
        self.folder = folder
        self.root = write_voc(folder / 'voc')
        self.cfg = small(DAFT_VOC, folder / 'run', self.root, iters=10)
        self.weights = write_start(self.cfg, folder)
        self.label = self.root / 'SegmentationClass' / '2007_train0003.png'
        self.image = self.root / 'JPEGImages' / '2007_train0003.jpg'

    @property
    def parts(self):
        return [*self.cfg.train_dataloader.dataset.datasets, self.cfg.val_dataloader.dataset]

    def write(self):
        # As Config.dump, without its formatting, which takes longer than the doctor.
        self.cfg.pop('experiment_name', None)
        lines = [f'{key} = {value!r}' for key, value in self.cfg.to_dict().items()]
        (self.folder / 'config.py').write_text('\n'.join(lines))
        return str(self.folder / 'config.py')

    def put(self, value, where=(slice(0, 5), slice(0, 5))):
        label = cv2.imread(str(self.label), cv2.IMREAD_UNCHANGED)
        label[where] = value
        cv2.imwrite(str(self.label), label)


@pytest.fixture(scope='module', autouse=True)
def fast_collection():
    """MMEngine collects garbage once a data set: keep all the objects of the libraries out of that."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


@pytest.fixture
def examine(capsys, monkeypatch):
    """Run the doctor in this process; return its status and what it printed."""
    monkeypatch.setenv('COLUMNS', '2000')

    def run(*words):
        status = doctor.main([str(word) for word in words])
        return status, capsys.readouterr().out
    return run


def process(*words):
    done = subprocess.run([sys.executable, ROOT / 'tools' / 'doctor.py', *words], capture_output=True, text=True,
                          cwd=ROOT, env={**os.environ, 'COLUMNS': '120'})
    return done.returncode, done.stdout, done.stderr


def row(output, check, verdict):
    """The text of the rows of a check that have a verdict."""
    found, current = [], ''
    for line in output.splitlines():
        for word in ('OK', 'WARN', 'FAIL', 'SKIP'):
            name, mark, text = line.partition(f' {word} ')
            if mark and not name.strip(' abcdefghijklmnopqrstuvwxyzGPU'):
                current, last = name.strip() or current, word
                break
        else:
            text = line
        if current == check and last == verdict:
            found.append(text.strip())
    return '\n'.join(found)


def test_a_sound_config_is_ready(case):
    status, output, errors = process(case.write())
    assert status == 0 and output.splitlines()[-1] == 'Ready.' and 'Traceback' not in errors
    assert 'FAIL' not in output and len(output.splitlines()) < 40
    for check in ('versions', 'mmcv ops', 'train data', 'val data', 'weights', 'classes', 'batch', 'rates', 'hooks',
                  'conversion', 'training step', 'GPU memory'):
        assert row(output, check, 'OK'), check
    assert '53 of 53 batch-norm layers' in output and '265 tensors match (100%)' in row(output, 'weights', 'OK')


def test_a_broken_config_ends_with_status_1_and_without_a_traceback(case):
    case.image.write_bytes(case.image.read_bytes()[:-300])
    case.cfg.model.type = 'EncoderDecodr'
    status, output, errors = process(case.write())
    assert status == 1 and output.splitlines()[-1] == '2 problems would waste this run.'
    assert 'Traceback' not in output + errors and 'EncoderDecodr' in row(output, 'model', 'FAIL')
    assert 'because of a problem above' in row(output, 'weights', 'SKIP')
    assert 'because of a problem above' in row(output, 'GPU memory', 'SKIP')


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


def colour_label(case):
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


def load_from_others(case):
    torch.save({'state_dict': {'encoder.weight': torch.zeros(3)}}, case.folder / 'other.pth')
    case.cfg.load_from = str(case.folder / 'other.pth')


def other_classes(case):
    case.cfg.model.decode_head.num_classes = 19


def learnt_padding(case):
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
    (colour_label, 'train data', 'colours, not class numbers', 'one channel'),
    (label_of_another_size, 'train data', '80x60, label 40x30', 'has its image'),
    (all_ignored, 'train data', '7 labels of 7 read ignore every pixel', 'check the labels'),
    (no_labels_loaded, 'train data', 'does not load labels', 'LoadAnnotations'),
    (other_weights, 'weights', 'does not match: 0 of 265', "prefix='module.encoder_q'"),
    (no_weights_file, 'weights', 'there is no such file', 'Put it there'),
    (torn_weights, 'weights', 'cannot be read', 'download the file again'),
    (unreachable_weights, 'weights', 'http://127.0.0.1:9/x.pth, prefix module.encoder_q: cannot be reached',
     'hub/checkpoints/x.pth'),
    (unreachable_archive, 'weights', 'cannot be reached', 'hub/checkpoints/x.pt'),
    (no_weights_at_all, 'weights', 'BNConversionHook needs one', 'init_cfg'),
    (load_from_others, 'weights', 'load_from', 'Correct prefix or the file'),
    (other_classes, 'classes', 'num_classes=19, the data of train_dataloader, val_dataloader, test_dataloader 21',
     'model.decode_head.num_classes=21'),
    (learnt_padding, 'classes', 'it would learn the padding', 'seg_pad_val=255'),
    (missing_package, 'model', 'HeadOfThatPackage', 'Install nowhere.models'),
    (floor_above_rate, 'rates', 'eta_min=0.05, above backbone_lr=0.01', 'Set eta_min=0'),
    (missing_rate, 'rates', 'paramwise_cfg lacks head_lr', 'head_lr=0.1'),
    (no_batch_norm, 'conversion', 'hold no batch-norm layer', 'fine-tune without the conversion'),
    (misspelt_modules, 'conversion', "no submodule 'backbone.layer5'", "'backbone.layer4'"),
    (nothing_left_to_train_at, 'schedule', 'max_iters=10: nothing is trained in the rest', 'end=10'),
    (more_batches_than_there_are, 'conversion', 'num_batches=500', 'Leave num_batches out'),
    (misspelt_hook, 'hooks', 'BNConversionHok is not registered', 'check its spelling'),
    (compiled_op, 'mmcv ops', 'FocalLoss of this model calls one', "pip install 'mmcv>=2.1,<2.2'"),
    (endless_loss, 'training step', 'not finite', 'normalisation'),
], ids=lambda value: getattr(value, '__name__', ''))
def test_what_would_waste_a_run_is_found_with_its_fix(case, examine, monkeypatch, damage, check, found, fix):
    monkeypatch.setattr(doctor, 'has_compiled_ops', lambda: False)
    damage(case)
    status, output = examine(case.write())
    assert status == 1 and 'would waste this run.' in output.splitlines()[-1]
    text = row(output, check, 'FAIL')
    assert found in text and fix in text, output


def test_what_may_be_meant_only_warns(case, examine):
    case.cfg.param_scheduler[0].update(end=8, eta_min=1e-6)
    case.cfg.pop('custom_imports')
    status, output = examine(case.write(), '--gpus', 2)
    assert status == 0 and output.splitlines()[-1] == 'Ready.'
    batch = row(output, 'batch', 'WARN')
    assert '8 images an optimizer step: 4 per GPU x 2 GPUs' in batch and 'train_dataloader.batch_size=2' in batch
    assert 'Add custom_imports' in row(output, 'hooks', 'WARN')
    assert 'ends at 8, training at max_iters=10' in row(output, 'schedule', 'WARN')
    assert 'released split has 1464' in row(output, 'train data', 'WARN')


def test_full_reads_everything_and_names_classes_that_never_occur(case, examine):
    status, output = examine(case.write(), '--full')
    assert status == 0 and 'classes never occur' in row(output, 'val data', 'WARN')
    assert '7 images; 7 read' in output


def test_weights_at_an_address_are_asked_for_then_downloaded_by_full_and_compared(case, examine, monkeypatch):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass
    monkeypatch.setenv('TORCH_HOME', str(case.folder / 'torch'))
    monkeypatch.setattr('doctor_weights.TIMEOUT', 600)
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(case.folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    try:
        case.cfg.model.backbone.init_cfg.checkpoint = f'{address}/{case.weights.name}'
        config = case.write()
        status, output = examine(config)
        text = row(output, 'weights', 'OK')
        assert status == 0 and 'reachable, 1 MB' in text and 'not downloaded yet' in text
        assert not list(case.folder.glob('torch/**/*.tar'))
        status, output = examine(config, '--full')
        assert status == 0 and '265 tensors match (100%)' in row(output, 'weights', 'OK')
        status, output = examine(config, '--cfg-options', f'model.backbone.init_cfg.checkpoint={address}/other.pth')
        assert status == 1 and '404' in row(output, 'weights', 'FAIL')
    finally:
        server.shutdown()
        server.server_close()
    status, output = examine(config)  # without a network, from the cache
    assert status == 0 and '265 tensors match (100%)' in row(output, 'weights', 'OK')


def test_a_folder_without_a_list_must_hold_all_images(tmp_path, examine):
    root = write_cityscapes(tmp_path / 'cityscapes')
    name = DAFT_VOC.replace('voc12aug-513x513', 'cityscapes-768x768')
    cfg = small(name, tmp_path / 'run', root, iters=10)
    write_start(cfg, tmp_path)
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'config.py')
    status, output = examine(tmp_path / 'config.py')
    text = row(output, 'train data', 'FAIL')
    assert status == 1 and 'the released split has 2975' in text and 'Unpack the archive again' in text
    assert output.splitlines()[-1].startswith('2 problems')


@pytest.mark.parametrize('text, options, found', [
    (None, (), 'There is no config'), ('model = dict(', (), 'Line 1: '), ('x = 1', (), 'lacks model'),
    ("_base_ = 'nowhere.py'", (), 'nowhere.py'), ("custom_imports = dict(imports=['nowhere'])", (), 'nowhere'),
    ('x = 1', ('--cfg-options', 'novalue'), 'Write KEY=VALUE')])
def test_a_config_that_cannot_be_read_is_named(tmp_path, examine, text, options, found):
    if text:
        (tmp_path / 'config.py').write_text(text)
    status, output = examine(tmp_path / 'config.py', *options)
    assert status == 1 and found in row(output, 'config', 'FAIL'), output
    assert 'not checked' in row(output, 'the rest', 'SKIP')


def test_options_reach_the_config_and_environment_variables_are_named(examine, tmp_path):
    status, output = examine(ROOT / 'configs' / 'ft' / 'ft_deeplabv3plus_r18-shapes_b8-200_shapes-target-96x96.py',
                             '--cfg-options', 'train_dataloader.dataset.data_root=/nowhere',
                             'model.backbone.init_cfg=None', 'train_dataloader.batch_size=4',
                             'optim_wrapper.accumulative_counts=2')
    assert status == 1 and 'export SHAPES_ROOT=/path/to/data' in row(output, 'train data', 'FAIL')
    assert 'from scratch' in row(output, 'weights', 'WARN')
    assert '8 images an optimizer step' in row(output, 'batch', 'OK')
    assert 'images of noise' in row(output, 'training step', 'OK')


GOOD = {'torch': '2.11.0+cpu', 'torchvision': '0.26.0+cpu', 'numpy': '2.4.6', 'mmcv-lite': '2.1.0', 'ftfy': '6',
        'mmengine': '0.10.7', 'mmsegmentation': '1.2.2', 'setuptools': '84.2.1', 'regex': '2026.1.1'}
FORK = {'onedl-mmcv': '2.3.6', 'onedl-mmengine': '0.10.12', 'onedl-mmsegmentation': '1.4.2'}


def versions(changes, python=(3, 11), bases=False):
    named = {name: version for name, version in {**GOOD, **changes}.items() if version}
    found = list(check_versions(named, python, bases))
    return [(finding.verdict.value, finding.found + finding.fix) for finding in found if finding.verdict != Verdict.OK]


@pytest.mark.parametrize('changes', [
    {}, {'mmcv-lite': None, 'mmcv': '2.1.0', 'torch': '2.1.2', 'torchvision': '0.16.2', 'numpy': '1.26.4'},
    {**{name: None for name in GOOD if name.startswith('mm')}, **FORK, 'ftfy': None, 'regex': None}])
def test_versions_that_go_together_pass(changes):
    assert versions(changes) == []


@pytest.mark.parametrize('changes, verdict, words', [
    ({'mmcv-lite': '2.2.0'}, 'FAIL', "pip install 'mmcv-lite>=2.1,<2.2'"),
    ({'mmcv-lite': None, 'mmcv': '2.2.0'}, 'FAIL', "pip install 'mmcv>=2.1,<2.2'"),
    ({'mmcv-lite': None, 'mmcv': '1.7.2'}, 'FAIL', 'refuses mmcv 1.7.2'),
    ({'mmcv': '2.1.0'}, 'FAIL', 'mmcv and mmcv-lite are both installed'),
    ({'onedl-mmsegmentation': '1.4.2'}, 'FAIL', 'mmsegmentation and onedl-mmsegmentation are both'),
    ({'torch': '2.2.0+cpu', 'torchvision': '0.17.0+cpu'}, 'FAIL', "pip install 'numpy<2'"),
    ({'torchvision': '0.25.0+cpu'}, 'FAIL', "torchvision==0.26.*"),
    ({'torchvision': '0.26.0+cu128'}, 'WARN', 'different devices'),
    ({'ftfy': None}, 'FAIL', 'pip install ftfy'), ({'regex': None}, 'FAIL', 'pip install regex'),
    ({'mmengine': '0.10.4'}, 'WARN', 'older than 0.10.7'), ({'mmengine': None}, 'FAIL', 'mmengine is not installed'),
    ({'mmsegmentation': '0.30.0'}, 'FAIL', '0.x series'), ({'mmcv-lite': None}, 'FAIL', 'mmcv is not installed'),
    ({'torchvision': None, 'torch': None}, 'FAIL', 'torch is not installed')])
def test_versions_that_break_are_named(changes, verdict, words):
    found = versions(changes)
    assert any(kind == verdict and words in text for kind, text in found), found


def test_versions_that_break_some_configs_or_pythons():
    assert "setuptools<82" in versions({}, bases=True)[0][1] and not versions({'setuptools': '81.0'}, bases=True)
    assert '3.14' in versions({}, python=(3, 14))[0][1]
    assert [f.verdict for f in check_ops({'ResNet', 'PointHead'}, False)] == [Verdict.FAIL]
    assert [f.verdict for f in check_ops({'ResNet', 'PointHead'}, True)] == [Verdict.OK]


def test_the_check_of_versions_needs_no_other_package():
    """It comes first, so that it can say what is missing."""
    code = ('import sys, json; sys.path.insert(0, "tools"); import doctor; from doctor_versions import *; '
            'found = list(check_versions(installed_versions(), (3, 11))); has_compiled_ops(); '
            'print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {'torch', 'mmseg', 'mmengine', 'mmcv', 'numpy', 'mmseg_daft', 'rich'} & set(json.loads(done.stdout))


def test_packages_that_cannot_be_imported_are_said(case, examine, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg_daft', None)
    status, output = examine(case.write())
    assert status == 1 and 'cannot be imported' in row(output, 'imports', 'FAIL') and row(output, 'the rest', 'SKIP')


def test_an_exception_in_a_check_is_a_failure_and_ends_nothing():
    def broken():
        yield ok('first', 'fine')
        raise KeyError('somewhere')
    exam = Examination()
    assert not exam.check('first', broken) and exam.obtain('second', lambda: 1 / 0) is None
    assert not exam.check('third', broken, None)
    assert [(f.check, f.verdict.value) for f in exam.findings] == [
        ('first', 'OK'), ('first', 'FAIL'), ('second', 'FAIL'), ('third', 'SKIP')]
    assert exam.findings[1].found == "KeyError: 'somewhere'" and exam.problems == 2


def test_saved_bytes_are_those_of_a_count_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                        nn.Conv2d(8, 4, 1, bias=False))
    x = torch.rand(2, 3, 16, 16)
    _, counted = saved_bytes(lambda: net(x).square().sum(), [*net.parameters(), *net.buffers()])
    image, wide, out = 2 * 3 * 256, 2 * 8 * 256, 2 * 4 * 256
    # The input; the first convolution's output, for batch norm; batch norm's, which ReLU rewrites and the second
    # convolution takes, too; the output, for the square; batch norm's mean and deviation of 8 channels.
    assert counted == 4 * (image + wide + wide + out + 2 * 8)


def test_optimizer_state_is_counted():
    p = nn.Parameter(torch.zeros(1000))
    assert optimizer_state_bytes(torch.optim.SGD([p], lr=1)) == 0
    assert optimizer_state_bytes(torch.optim.SGD([p], lr=1, momentum=0.9)) == 4000
    assert optimizer_state_bytes(torch.optim.AdamW([p], lr=1)) == 8000


@pytest.mark.parametrize('crop', [(385, 385), (384, 512)])
def test_a_thinned_crop_gives_the_memory_of_the_full_one(case, crop):
    for part in case.cfg.train_dataloader.dataset.datasets:
        part.pipeline[3].crop_size = crop
    case.cfg.model.data_preprocessor.size = crop
    cfg = read_config(Path(case.write()), [])
    small_step, full_step = (training_step(cfg, build_model(cfg), False, full) for full in (False, True))
    assert small_step.crop == full_step.crop == full_step.ran == crop and small_step.ran != crop
    assert small_step.saved == pytest.approx(full_step.saved, rel=0.06)


def test_memory_is_compared_with_the_card(case, monkeypatch):
    cfg = read_config(Path(case.write()), [])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model).optimizer
    step = training_step(cfg, model, False, False)
    found = list(check_memory(cfg, model, optimizer, step))
    assert found[0].verdict is Verdict.OK and 'Cards of 8 GB' in found[0].found

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda _: type('Card', (), {'total_memory': MB}))
    exam = Examination()
    exam.check('GPU memory', check_memory, cfg, model, optimizer, step)
    assert exam.problems == 1 and 'AmpOptimWrapper' in exam.findings[0].fix


def test_mixed_precision_is_examined_without_a_gpu(case, examine):
    case.cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    status, output = examine(case.write())
    assert status == 0 and 'halved as mixed precision' in row(output, 'GPU memory', 'OK')


def test_addresses_and_small_words(tmp_path):
    assert resolve('torchvision://resnet50').startswith('https://download.pytorch.org/models/resnet50')
    assert resolve('torchscript://a/b.pt') == 'a/b.pt' and resolve('a.pth') == 'a.pth'
    assert local_file(f'torchscript://https://x.org/{"0123456789abcdef" * 4}/RN50.pt').endswith('/RN50-01234567.pt')
    (tmp_path / 'x.pth').write_bytes(b'12345')
    assert size_at((tmp_path / 'x.pth').as_uri()) == 5
    assert ranges([0, 1, 2, 5, 255]) == '0-2, 5, 255'

    def known(kind, ann_file, img_path):
        return known_count(type(kind, (), {'ann_file': ann_file, 'data_prefix': {'img_path': img_path}})())
    assert [known('PascalVOCDataset', f'x/{split}.txt', '') for split in ('train', 'aug', 'val', 'half')] == [
        1464, 9118, 1449, None]
    assert known('CityscapesDataset', '', 'leftImg8bit/train') == 2975 and known('CamVidDataset', '', 'train') is None
