"""The hook inside a real runner: what it converts, what it leaves alone, what it writes down."""

import hashlib
import json
import os
import random
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import FUNCTIONS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from support.pretrained_files import write_moco
from support.small_runs import DAFT_VOC, log_of, small, train

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.engine.convert_model import CONVERTED, RECORD


@pytest.fixture
def daft(voc_root, tmp_path):
    """Make a config of a small DAFT run with pre-trained weights on disk."""

    def make(name='run', iters=2, config=DAFT_VOC, **options):
        cfg = small(config, tmp_path / name, voc_root, iters)
        cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'moco.pth.tar')
        if not (tmp_path / 'moco.pth.tar').exists():
            write_moco(tmp_path / 'moco.pth.tar', cfg.model)
        cfg.merge_from_dict(options)
        return cfg

    return make


class States:
    """What a run looked like before each iteration."""

    def __init__(self):
        self.models, self.random, self.batches, self.paths = [], [], [], []

    def __call__(self, runner, batch):
        self.models.append({name: t.clone() for name, t in runner.model.state_dict().items()})
        states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        self.random.append(hashlib.sha256(json.dumps(states).encode()).hexdigest())
        self.batches.append([image.clone() for image in batch['inputs']])
        self.paths.append([sample.img_path for sample in batch['data_samples']])


class Slow:
    """A transform that takes its time."""

    seconds = 0.5

    def __call__(self, results):
        time.sleep(self.seconds)
        return results


def start(cfg):
    """Build a runner and bring it up to ``before_train``, with its weights loaded."""
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.call_hook('before_run')
    runner._init_model_weights()
    return runner


def snapshot(runner):
    return {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refuse(cfg, match, error=ValueError):
    """Check that the hook raises before training, with the model as it was."""
    runner = start(cfg)
    before, random_state = snapshot(runner), torch.get_rng_state()
    modes = [module.training for module in runner.model.modules()]
    with pytest.raises(error, match=match):
        runner.call_hook('before_train')
    assert same(before, snapshot(runner))
    assert torch.equal(random_state, torch.get_rng_state())
    assert modes == [module.training for module in runner.model.modules()]
    assert runner.message_hub.get_info(RECORD) is None


def features(runner, images):
    runner.model.eval()
    with torch.no_grad():
        return runner.model.extract_feat(images)


def test_the_backbone_is_converted_and_computes_the_same_function(daft):
    runner = start(daft())
    images = torch.randn(2, 3, 64, 64)
    source, before = snapshot(runner), features(runner, images)
    runner.call_hook('before_train')
    for a, b in zip(before, features(runner, images)):
        assert (a - b).abs().max() / a.abs().max() < 1e-4
    changed = {name for name, tensor in snapshot(runner).items() if not torch.equal(tensor, source[name])}
    layers = find_batch_norms(runner.model, ('backbone',))
    assert len(layers) == 53
    assert changed == {f'{layer}.{tensor}' for layer in layers
                       for tensor in ('weight', 'bias', 'running_mean', 'running_var')}


def test_the_statistics_are_those_of_the_training_data_through_its_pipeline(daft):
    """An own computation from the whole set, without shuffling or random augmentation in the way."""
    cfg = daft(**{'train_dataloader.batch_size': 13})
    for part in cfg.train_dataloader.dataset.datasets:
        part.pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    cfg.model.data_preprocessor.size = (60, 80)
    runner = start(cfg)
    seen = []
    layer = runner.model.backbone.layer2[0].bn1
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double()))
    dataset = runner.train_dataloader.dataset
    batch = runner.train_dataloader.collate_fn([dataset[i] for i in range(len(dataset))])
    features(runner, runner.model.data_preprocessor(batch, True)['inputs'])
    handle.remove()
    runner.call_hook('before_train')
    torch.testing.assert_close(layer.running_mean.double(), seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), seen[0].var((0, 2, 3)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('workers', [0, 2])
def test_the_training_sees_the_same_data_and_random_numbers_as_without(daft, workers):
    options = {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0}
    with_hook, without = States(), States()
    train(daft('with', iters=4, **options), with_hook)
    plain = daft('without', iters=4, **options)
    plain.custom_hooks = []
    train(plain, without)
    assert with_hook.paths == without.paths
    assert with_hook.random == without.random
    assert all(torch.equal(a, b) for x, y in zip(with_hook.batches, without.batches) for a, b in zip(x, y))
    assert not same(with_hook.models[0], without.models[0])


def test_workers_do_not_change_the_statistics(daft):
    results = []
    for workers in (0, 2):
        runner = start(daft(f'workers{workers}', **{'train_dataloader.num_workers': workers}))
        runner.call_hook('before_train')
        results.append(snapshot(runner))
    assert same(*results)


@FUNCTIONS.register_module()
def begin_worker(worker_id, folder):
    (Path(folder) / str(os.getpid())).touch()


def test_workers_begin_as_the_config_says(daft, tmp_path):
    """Two of MMEngine's loader, which begin before any hook, and two of the conversion's."""
    (tmp_path / 'workers').mkdir()
    runner = start(daft(**{'train_dataloader.num_workers': 2, 'train_dataloader.worker_init_fn': dict(
        type='begin_worker', folder=str(tmp_path / 'workers'))}))
    runner.call_hook('before_train')
    deadline = time.monotonic() + 60
    while len(begun := [*(tmp_path / 'workers').iterdir()]) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(begun) == 4


def test_batch_norm_that_is_part_of_a_convolution_is_refused(daft):
    with pytest.raises(ValueError, match='efficient_conv_bn_eval.*cannot be observed. Leave it out'):
        train(daft(efficient_conv_bn_eval=['backbone']))


def test_the_checkpoint_tells_that_and_on_what_it_ran(daft):
    cfg = daft()
    train(cfg)
    record = torch.load(f'{cfg.work_dir}/iter_2.pth')['message_hub']['runtime_info'][RECORD]
    assert record['modules'] == ['backbone']
    assert (record['num_images'], record['num_batches']) == (13, 4)
    assert 'PascalVOCDataset(7 images' in record['dataset'] and 'aug.txt' in record['dataset']
    assert len(record['shifts']) == 53 and record['output_change'] < 1e-4


def test_the_summary_says_it_all(daft):
    runner = start(daft(**{'custom_hooks': [dict(type='BNConversionHook', num_batches=2)]}))
    runner.call_hook('before_train')
    text = log_of(runner)
    assert '53 layers found, 53 converted, 0 left as they are' in text
    assert '8 images in 2 mini-batches of ConcatDataset' in text
    assert 'eval-mode output changed by' in text and 'source standard deviations on average' in text


def test_a_pass_that_stops_early_says_how_much_it_took_and_what_held_it_up(daft):
    runner = start(daft(**hooked(stop_error=10, min_batches=2)))
    runner.call_hook('before_train')
    record = runner.message_hub.get_info(RECORD)
    assert (record['num_images'], record['num_batches'], record['all_batches']) == (8, 2, 4)
    assert 0 < record['waited'] < record['pass_seconds'] < record['seconds']
    text = log_of(runner)
    assert '8 images in 2 of 4 mini-batches of ConcatDataset' in text
    assert 's waiting for data; the bottleneck was' in text


def test_a_slow_data_set_is_named_as_the_bottleneck(daft):
    runner = start(daft())
    for dataset in runner.train_dataloader.dataset.datasets:
        dataset.pipeline.transforms.insert(0, Slow())
    runner.call_hook('before_train')
    record = runner.message_hub.get_info(RECORD)
    assert 13 * Slow.seconds < record['waited'] < record['pass_seconds']
    assert 'the bottleneck was data loading, see num_workers' in log_of(runner)


def test_a_slow_network_is_named_as_the_bottleneck(daft):
    runner = start(daft())
    runner.model.backbone.layer1.register_forward_pre_hook(lambda *_: time.sleep(13 * Slow.seconds / 4))
    runner.call_hook('before_train')
    assert 'the bottleneck was computing' in log_of(runner)


def test_a_resumed_run_is_not_converted_again_and_ends_bit_equal(daft):
    """With dropout off and a pipeline without randomness, as mmengine saves no random state."""

    def make(name, iters):
        cfg = daft(name, iters, **{'model.decode_head.dropout_ratio': 0.0})
        for part in cfg.train_dataloader.dataset.datasets:
            part.pipeline = [t for t in part.pipeline if not t['type'].startswith('Random')]
        cfg.model.data_preprocessor.size = (60, 80)
        return cfg

    whole = train(make('whole', 5))
    train(make('parts', 3))
    cfg = make('parts', 5)
    cfg.resume = True
    states = States()
    resumed = train(cfg, states)
    assert len(states.models) == 2
    saved = torch.load(f'{cfg.work_dir}/iter_3.pth')['state_dict']
    assert same(states.models[0], saved)
    assert same(snapshot(whole), snapshot(resumed))


def test_resuming_a_run_that_was_never_converted_is_refused(daft):
    plain = daft('run', 2)
    plain.custom_hooks = []
    train(plain)
    cfg = daft('run', 4)
    cfg.resume = True
    with pytest.raises(RuntimeError, match='at iteration 2 from its last checkpoint, which was never converted'):
        train(cfg)


def test_resume_without_a_checkpoint_starts_and_converts(daft):
    cfg = daft()
    cfg.resume = True
    assert train(cfg).message_hub.get_info(RECORD)['num_images'] == 13


def test_the_whole_model_can_be_converted_also_its_auxiliary_head(daft):
    cfg = daft(**{'custom_hooks': [dict(type='BNConversionHook', modules=('',), allow_untrained=True)]})
    cfg.model.auxiliary_head = dict(
        type='FCNHead', in_channels=64, in_index=2, channels=8, num_convs=1, num_classes=21,
        norm_cfg=dict(type='SyncBN'), loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))
    runner = start(cfg)
    runner.call_hook('before_train')
    shifts = runner.message_hub.get_info(RECORD)['shifts']
    assert any(name.startswith('auxiliary_head') for name in shifts)
    assert len(shifts) == len(find_batch_norms(runner.model, ('',)))


def test_statistics_are_taken_under_the_autocast_of_the_training_and_the_check_is_not(daft):
    """mmengine's AMP wrapper wants a GPU; its context is all that the hook uses of it."""

    @OPTIM_WRAPPERS.register_module(force=True)
    class CPUAmp(OptimWrapper):
        @contextmanager
        def optim_context(self, model):
            with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
                yield

    runner = start(daft(**{'optim_wrapper.type': 'CPUAmp'}))
    kinds = []
    layer = runner.model.backbone.layer2[0].bn1
    handle = layer.register_forward_pre_hook(lambda module, inputs: kinds.append(inputs[0].dtype))
    runner.call_hook('before_train')
    handle.remove()
    assert kinds == [torch.bfloat16] * 4 + [torch.float32] * 2
    assert layer.running_mean.dtype == torch.float32


def test_every_checkpoint_keeps_the_tensors_that_training_began_with_also_after_a_resume(daft):
    states = States()
    train(daft(), states)
    train(daft(iters=4, resume=True))
    names = {f'{layer}.{tensor}' for layer in find_batch_norms(start(daft('other')).model, ('backbone',))
             for tensor in ('weight', 'bias', 'running_mean', 'running_var')}
    first, resumed = (torch.load(Path(daft().work_dir) / f'iter_{i}.pth') for i in (2, 4))
    for checkpoint in (first, resumed):
        kept = checkpoint['message_hub']['runtime_info'][CONVERTED]
        assert kept.keys() == names
        assert all(torch.equal(kept[name], states.models[0][name]) for name in names)
    assert not torch.equal(resumed['state_dict']['backbone.bn1.running_mean'], kept['backbone.bn1.running_mean'])


def test_the_record_names_the_data_also_inside_wrappers(daft):
    cfg = daft()
    part = cfg.train_dataloader.dataset.datasets[0]
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=part, times=2)
    runner = start(cfg)
    runner.call_hook('before_train')
    record = runner.message_hub.get_info(RECORD)
    assert record['num_images'] == 7
    assert record['dataset'].startswith('RepeatDataset[PascalVOCDataset(7 images, ')


def test_the_ablations_are_arguments_and_the_record_says_which(daft):
    runner = start(daft(**hooked(var=False, blend=0.5, modules=('backbone.layer3', 'backbone.layer4'))))
    source = snapshot(runner)
    runner.call_hook('before_train')
    changed = {name for name, tensor in snapshot(runner).items() if not torch.equal(tensor, source[name])}
    layers = find_batch_norms(runner.model, ('backbone.layer3', 'backbone.layer4'))
    assert changed == {f'{layer}.{tensor}' for layer in layers for tensor in ('bias', 'running_mean')}
    variant = runner.message_hub.get_info(RECORD)['variant']
    assert variant == dict(mean=True, var=False, blend=0.5, compensate=True)
    assert f'{len(layers)} converted' in log_of(runner)
    assert "not the paper's conversion: means only, 0.5 of the target" in log_of(runner)


def test_statistics_without_compensation_may_change_the_output(daft):
    runner = start(daft(**hooked(compensate=False)))
    runner.call_hook('before_train')
    assert runner.message_hub.get_info(RECORD)['output_change'] > 1e-2
    assert 'γ and β not compensated' in log_of(runner)


def test_layers_without_affine_parameters_are_left_and_the_reason_said(daft):
    runner = start(daft())
    runner.model.backbone.layer1[0].bn1 = torch.nn.BatchNorm2d(4, affine=False)
    runner.call_hook('before_train')
    text = log_of(runner)
    assert '53 layers found, 52 converted, 1 left' in text
    assert 'left: backbone.layer1.0.bn1: it has no γ and β' in text


def hooked(**options):
    return {'custom_hooks': [dict(type='BNConversionHook', **options)]}


def test_misspelt_module(daft):
    refuse(daft(**hooked(modules=('backbon',))), "no submodule 'backbon'")


def test_no_batch_norm_in_scope(daft):
    refuse(daft(**hooked(modules=('decode_head.conv_seg',))), 'hold no batch-norm layer')


def test_batch_norm_never_reached(daft):
    cfg = daft()
    del cfg.default_hooks.pretrained  # would refuse first: the file lacks the layer
    runner = start(cfg)
    runner.model.backbone.extra = torch.nn.BatchNorm2d(3)
    runner.model.backbone.extra.running_mean += 1
    before = snapshot(runner)
    with pytest.raises(ValueError, match=r"never reached.*'backbone.extra'"):
        runner.call_hook('before_train')
    assert same(before, snapshot(runner))


def test_only_layers_that_cannot_be_converted(daft):
    refuse(daft(**{'model.backbone.norm_cfg': dict(type='BN', affine=False), 'model.backbone.init_cfg': None}),
           'None of the 53 batch-norm layers can be converted.*no γ and β')


def test_empty_data_set(daft, tmp_path):
    (tmp_path / 'empty.txt').write_text('')
    cfg = daft()
    cfg.train_dataloader.dataset = dict(cfg.train_dataloader.dataset.datasets[0], ann_file=str(tmp_path / 'empty.txt'))
    with pytest.raises(ValueError, match='PascalVOCDataset found no image.*empty.txt'):
        start(cfg)
    cfg.train_dataloader.dataset.serialize_data = False
    refuse(cfg, 'training data set is empty.*ann_file')


def test_num_batches_beyond_the_data(daft):
    refuse(daft(**hooked(num_batches=5)), 'num_batches=5.*13 images.*4 mini-batches of 4')


def test_no_weights_at_all(daft):
    refuse(daft(**{'model.backbone.init_cfg': None}), '53 of 53 .*untrained layer.*load_from')


def test_an_image_with_nan(daft, voc_root):
    cfg = daft()

    def poison(results):
        if results['img_path'].endswith('train0003.jpg'):
            results['img'] = results['img'].astype(np.float32)
            results['img'][0, 0, 0] = np.nan
        return results

    runner = start(cfg)
    for part in runner.train_dataloader.dataset.datasets:
        part.pipeline.transforms.insert(1, poison)
        part.pipeline.transforms[:] = [t for t in part.pipeline.transforms if not type(t).__name__.startswith('Random')]
    runner.model.data_preprocessor.size = (60, 80)
    before = snapshot(runner)
    with pytest.raises(ValueError, match=r'2007_train0003.jpg holds NaN'):
        runner.call_hook('before_train')
    assert same(before, snapshot(runner))


def test_one_pixel_maps(daft):
    cfg = daft(**{'train_dataloader.batch_size': 1, 'model.data_preprocessor.size': (1, 1)})
    for part in cfg.train_dataloader.dataset.datasets:
        part.pipeline = [t for t in part.pipeline if t['type'] != 'RandomFlip']  # mmseg cannot flip one pixel
        for transform in part.pipeline:
            if transform['type'] == 'RandomCrop':
                transform['crop_size'] = (1, 1)
    refuse(cfg, "'backbone.bn1' only ever saw a single element per channel")


def test_an_output_that_changes_is_an_error_and_undone(daft):
    """A layer that does not compute what its tensors say: batch norm with γ squared."""
    runner = start(daft())
    layer = runner.model.backbone.layer1[0].bn1
    layer.register_forward_hook(lambda module, inputs, output: output * module.weight[:, None, None])
    before = snapshot(runner)
    with pytest.raises(RuntimeError, match='changed the eval-mode output by .* so it was undone'):
        runner.call_hook('before_train')
    assert same(before, snapshot(runner))
