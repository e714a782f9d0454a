"""Every argument of every hook and of the constructor, of wrong types and ranges: one sentence with the fix."""

import inspect
import re

import pytest
from mmengine.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS
from support.small_runs import SMALL, small
from torch import nn

import mmseg_daft.engine  # noqa: F401  registers the hooks
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.core.variant import ConversionVariant
from mmseg_daft.engine.optim_wrapper_constructor import PARAMWISE

NAN, INF = float('nan'), float('inf')
NAMES = [(), [], 3, None, [1], {'backbone': 1}, True]
FLAGS = ['False', 'True', 0, 1, None, [True]]
COUNTS = [0, -1, 1.5, 2.0, '4', True, NAN, [4], (1, 2), {}]
POSITIVE = [0, -1e-4, NAN, INF, '1e-4', True, [1e-4], {}]
RATES = [None, -0.1, NAN, INF, '0.1', True, [0.1]]
TEXTS = ['', 3, True, ['a.safetensors']]
WRONG = {
    'BNConversionHook': dict(
        modules=NAMES, num_batches=COUNTS, tolerance=[None, *POSITIVE], allow_untrained=FLAGS, mean=FLAGS, var=FLAGS,
        blend=[None, *POSITIVE, 1.1], compensate=FLAGS, statistics=TEXTS, stop_error=POSITIVE,
        min_batches=[None, 1, *COUNTS], cache_dir=TEXTS),
    'BNTestModeHook': dict(modules=NAMES),
    'CheckpointOnSignalHook': dict(signals=[(), None, 10, 'SIGUSR3', 'USR1', ['SIGUSR1', 12], {'SIGUSR1': 1}]),
    'DivergenceHook': {},
    'EffectiveBatchHook': dict(images=[None, *COUNTS]),
    'ExactResumeHook': {},
    'FeatureDistortionHook': dict(
        interval=[None, *COUNTS], num_images=[None, *COUNTS], stages=[0, -1, '4', (), [0], ['4'], 1.5, True],
        max_bytes=[None, *COUNTS], modules=NAMES),
    'FinalEvaluationHook': {},
    'L2SPHook': dict(strength=[None, *POSITIVE], modules=NAMES),
    'PretrainedWeightsHook': dict(min_share=[None, -0.1, 1.1, NAN, INF, '0.95', True, [0.5]]),
    'SPDHook': dict(strength=[None, *POSITIVE], modules=NAMES),
    'WeightAveragingHook': dict(
        begin=[None, -0.1, 1, NAN, '0.5', True, [0.5]], momentum=[0, 1, NAN, '0.1', True, [0.1]], num_batches=COUNTS),
}
CASES = [(hook, name, value) for hook, arguments in WRONG.items() for name, values in arguments.items()
         for value in values if value is not None or name not in ('stages',)]


def one_sentence(error, *parts):
    """Check that a message is one sentence, with all that it has to name and what would be right."""
    message = str(error.value)
    assert all(part in message for part in parts), message
    assert 'has to be' in message and message.endswith('.') and '\n' not in message and len(message) < 250
    assert not re.search(r'[.!?] [A-Z]', message), message


def test_the_table_is_whole():
    ours = {name: kind for name, kind in HOOKS.module_dict.items() if kind.__module__.startswith('mmseg_daft.')}
    assert ours.keys() == WRONG.keys()
    for name, kind in ours.items():
        takes = [] if kind.__init__.__wrapped__ is object.__init__ else [*inspect.signature(kind).parameters]
        assert takes == [*WRONG[name]], name


@pytest.mark.parametrize('hook, name, value', CASES, ids=lambda value: repr(value))
def test_a_wrong_argument(hook, name, value):
    needed = {'EffectiveBatchHook': {'images': 4}, 'L2SPHook': {'strength': 1}, 'SPDHook': {'strength': 1}}
    with pytest.raises(ValueError) as error:
        HOOKS.build({'type': hook, **needed.get(hook, {}), name: value})
    one_sentence(error, hook, f'{name}={value!r}')


@pytest.mark.parametrize('name', WRONG)
def test_a_misspelt_argument(name):
    arguments = [*WRONG[name]] or ['interval']
    misspelt = arguments[0][:-1] + 'x'
    with pytest.raises(ValueError, match=f'{name} does not take {misspelt!r}; ') as error:
        HOOKS.build({'type': name, misspelt: 1})
    expected = f'did you mean {arguments[0]!r}?' if WRONG[name] else 'it takes no arguments: leave it out.'
    assert str(error.value).endswith(expected)
    with pytest.raises(ValueError, match=f'{name} does not take \'zzz\'; it takes {", ".join(WRONG[name])[:20]}'):
        HOOKS.build({'type': name, 'zzz': 1})


@pytest.mark.parametrize('name, values', [
    ('backbone_lr', RATES), ('head_lr', RATES), ('backbone_modules', NAMES), ('head_modules', NAMES),
    ('norm_decay_mult', RATES[1:]), ('bias_decay_mult', RATES[1:]), ('layer_decay', [0, 1.1, NAN, '0.7', True, [0.7]]),
    ('stage_lr_mult', [{}, {'stage1': -1}, {'stage1': '1'}, 0.5, ['stage1'], True])])
def test_a_wrong_option_of_the_constructor(name, values):
    for value in values:
        with pytest.raises(ValueError) as error:
            OPTIM_WRAPPER_CONSTRUCTORS.build(dict(
                type='DAFTOptimWrapperConstructor', optim_wrapper_cfg=dict(optimizer=dict(type='SGD')),
                paramwise_cfg={'backbone_lr': 0.1, 'head_lr': 0.1, name: value}))
        one_sentence(error, 'paramwise_cfg', f'{name}={value!r}')
    assert name in PARAMWISE


def test_the_core_checks_the_same():
    for build in (lambda: ConversionVariant(mean='False'), lambda: ConversionVariant(blend=0),
                  lambda: StopRule('0.01'), lambda: StopRule(0.01, min_batches=2.5)):
        with pytest.raises(ValueError, match='has to be'):
            build()


def test_right_arguments_pass():
    for arguments in (
            dict(type='BNConversionHook', modules='backbone', num_batches=None, tolerance=1, blend=1, stop_error=None),
            dict(type='BNConversionHook', modules=['backbone.layer3'], num_batches=4, statistics='{seed}.st'),
            dict(type='BNTestModeHook', modules=('',)), dict(type='EffectiveBatchHook', images=16),
            dict(type='FeatureDistortionHook', stages=4), dict(type='FeatureDistortionHook', stages=[1, 4]),
            dict(type='PretrainedWeightsHook', min_share=0), dict(type='FinalEvaluationHook')):
        HOOKS.build(arguments)
    assert HOOKS.build(dict(type='BNConversionHook', modules='neck')).settings.modules == ('neck',)


def test_an_argument_that_is_needed():
    with pytest.raises(ValueError, match='EffectiveBatchHook needs images: a whole number, 1 or larger.'):
        HOOKS.build(dict(type='EffectiveBatchHook'))


@pytest.mark.parametrize('hooks, match', [
    ([dict(type='BNConversionHook'), dict(type='BNConversionHook', modules='decode_head')],
     'two BNConversionHooks.*list all modules in it'),
    ([dict(type='FeatureDistortionHook'), dict(type='FeatureDistortionHook', stages=1)], 'two FeatureDistortionHooks'),
    ([dict(type='FeatureDistortionHook', modules=('bakbone',))], "no submodule 'bakbone'. Did you mean .*'backbone"),
    ([dict(type='FeatureDistortionHook', modules=('backbone.maxpool',))], 'nothing would be compared'),
])
def test_what_would_record_nothing_or_half_is_refused_before_the_training(shapes_root, tmp_path, hooks, match):
    from mmengine.runner import Runner

    cfg = small(SMALL / 'ft.py', tmp_path / 'run', shapes_root)
    cfg.custom_hooks = hooks
    cfg.model.backbone.init_cfg = None
    cfg.default_hooks.pop('pretrained', None)
    runner = Runner.from_cfg(cfg)
    assert isinstance(runner.model, nn.Module)
    with pytest.raises(ValueError, match=match):
        runner.call_hook('before_run')
