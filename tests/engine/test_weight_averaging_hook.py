"""The mean of the weights along a real run, its statistics, and what MMEngine's averaging makes of these."""

import pytest
import torch
from support.pretrained_files import write_start
from support.small_runs import SMALL, small, train

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.engine.hooks.weight_averaging_hook import WeightAveragingHook
from mmseg_daft.engine.reestimation import reestimate_statistics

EXACT, OURS = dict(type='ExactResumeHook'), dict(type='WeightAveragingHook', begin=0.5)
MMENGINES = dict(type='EMAHook', ema_type='StochasticWeightAverage', begin_iter=3)


@pytest.fixture
def run(shapes_root, tmp_path):
    def run(*hooks, name='run', iters=4, resume=False, look=None):
        cfg = small(SMALL / 'ft.py', tmp_path / name, shapes_root, iters, **{
            'default_hooks.checkpoint.interval': 2, 'param_scheduler.0.end': 10, 'train_cfg.val_interval': 3})
        write_start(cfg, tmp_path)
        cfg.custom_hooks, cfg.resume = [EXACT, *hooks], resume
        runner = train(cfg, look)
        return runner, torch.load(tmp_path / name / f'iter_{iters}.pth', weights_only=False)
    return run


def stop_at_2(runner, batch):
    if runner.iter == 2:
        raise InterruptedError


@pytest.mark.slow
def test_the_mean_has_statistics_of_its_own_and_mmengines_has_the_last_iterates(run):
    """Iterates 3 and 4 count. The means of the weights agree; only ours has statistics that fit them."""
    iterates = []

    def look(runner, batch):
        iterates.append({name: p.detach().double() for name, p in runner.model.named_parameters()})

    runner, checkpoint = run(OURS, look=look)
    _, other = run(MMENGINES, name='mmengine')
    mean, theirs, last = checkpoint['state_dict'], other['state_dict'], runner.model.state_dict()
    for name, p in runner.model.named_parameters():
        expected = torch.stack([iterates[3][name], p.detach().double()]).mean(0)
        for average in (mean, theirs):
            torch.testing.assert_close(average[name].double(), expected, rtol=1e-5, atol=1e-6)
    for name, tensor in last.items():  # the training is the same
        for ended in (checkpoint, other):
            assert torch.equal(ended['ema_state_dict'][f'module.{name}'], tensor), name

    # Resumed in the midst, the run ends equal, and what is validated is what is saved.
    value = runner.message_hub.get_scalar('val/mIoU').current()
    with pytest.raises(InterruptedError):
        run(OURS, name='parts', look=stop_at_2)
    resumed, parts = run(OURS, name='parts', resume=True)
    for key in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(tensor, parts[key][name]) for name, tensor in checkpoint[key].items()), key
    assert resumed.message_hub.get_scalar('val/mIoU').current() == value
    resumed.model.load_state_dict(mean)
    resumed._hooks = [hook for hook in resumed.hooks if not isinstance(hook, WeightAveragingHook)]
    assert resumed.val_loop.run()['mIoU'] == value

    layers, apart = find_batch_norms(resumed.model, ''), []
    reestimate_statistics(resumed.model, layers, resumed.train_dataloader, seed=0)
    for name, layer in layers.items():
        assert torch.equal(mean[f'{name}.running_var'], layer.running_var)
        assert torch.equal(theirs[f'{name}.running_var'], last[f'{name}.running_var'])
        apart.append(float((last[f'{name}.running_var'] / layer.running_var).log().abs().mean()))
    assert min(apart) > 0.01 and max(apart) > 0.1


def test_layers_in_eval_mode_keep_the_statistics_that_training_normalizes_by(run, tmp_path):
    _, checkpoint = run(OURS, dict(type='BNTestModeHook', modules='backbone'), iters=2)
    start = torch.load(tmp_path / 'start.pth')['state_dict']
    for name, tensor in checkpoint['state_dict'].items():
        if 'running' in name:
            in_backbone = name.startswith('backbone.')
            assert torch.equal(tensor, start[name]) if in_backbone else tensor.std() > 0, name


@pytest.mark.parametrize('options, match', [
    (dict(begin=1), 'begin=1: it has to be a number from 0, below 1'),
    (dict(momentum=1.0), 'momentum=1.0: it has to be a number between 0 and 1'),
    (dict(ema_type='x'), "does not take 'ema_type'")])
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        WeightAveragingHook(**options)
