"""L2-SP and SPD in real runs: what they pull to, through accumulation and resume, and what they refuse."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from support.pretrained_files import write_start
from support.small_runs import SMALL, small, train
from torch import nn

from mmseg_daft.engine.hooks.start_penalty_hook import START, L2SPHook, SPDHook

EXACT = dict(type='ExactResumeHook')


@pytest.fixture
def make(shapes_root, tmp_path):
    def make(*hooks, name='run', iters=2, config='daft', **options):
        cfg = small(SMALL / f'{config}.py', tmp_path / name, shapes_root, iters, **options)
        write_start(cfg, tmp_path)
        cfg.custom_hooks = [*hooks, *cfg.get('custom_hooks', [])]
        return cfg
    return make


def backbone(state):
    return {name: tensor for name, tensor in state.items() if name.startswith('backbone.')}


@pytest.mark.slow
def test_a_resumed_run_is_pulled_to_the_converted_start_and_ends_equal(make, tmp_path):
    """The hook stands before the conversion in the list."""
    hook, starts = dict(type='SPDHook', strength=0.5), []

    def look(runner, batch):
        if runner.iter == 0:
            starts.append({name: p.detach().clone() for name, p in runner.model.named_parameters()})

    options = {'default_hooks.checkpoint.interval': 2, 'train_cfg.val_interval': 4, 'param_scheduler.0.end': 10}
    whole = train(make(hook, EXACT, name='whole', iters=4, **options), look)
    for iters in (2, 4):
        cfg = make(hook, EXACT, name='parts', iters=iters, **options)
        cfg.resume = iters > 2
        parts = train(cfg, look)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, parts.model.state_dict()[name]), name
    kept = torch.load(tmp_path / 'parts' / 'iter_4.pth', weights_only=False)[START]
    assert kept.keys() == backbone(starts[0]).keys()
    assert all(torch.equal(tensor, starts[0][name]) for name, tensor in kept.items())
    file = torch.load(make().model.backbone.init_cfg.checkpoint)['state_dict']
    assert not torch.equal(kept['backbone.bn1.weight'], file['backbone.bn1.weight'])
    assert torch.equal(kept['backbone.conv1.weight'], file['backbone.conv1.weight'])
    decays = {group['name']: group['weight_decay'] for group in parts.optim_wrapper.optimizer.param_groups}
    assert decays == {'backbone': 0, 'head': 1e-4}


def test_the_penalty_counts_once_over_accumulated_and_clipped_gradients():
    """In float64, against one backward pass of the whole loss."""
    torch.manual_seed(0)
    ours, reference = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    reference.load_state_dict(ours.state_dict())
    parameters, start = list(ours.parameters()), [torch.zeros_like(p) for p in ours.parameters()]
    wrapper = OptimWrapper(torch.optim.SGD(parameters, lr=0.1), accumulative_counts=2, clip_grad=dict(max_norm=0.05))
    wrapper.initialize_count_status(ours, 0, 4)
    L2SPHook(strength=0.3).attach(wrapper.optimizer, parameters, start)
    x = torch.randn(4, 3, dtype=torch.double)
    for i in range(4):
        wrapper.update_params(ours(x[i:i + 1]).square().sum())
        if i % 2:
            reference.zero_grad()
            (sum(reference(x[j:j + 1]).square().sum() for j in (i - 1, i)) / 2).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
            with torch.no_grad():
                for p in reference.parameters():
                    p -= 0.1 * (p.grad + 0.3 * p)
    for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('options, match', [
    (dict(strength=-0.1), r'strength=-0\.1: it has to be a number larger than 0'),
    (dict(strength=0), 'strength=0: it has to be'), ({}, 'L2SPHook needs strength')])
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        L2SPHook(**options)


@pytest.mark.parametrize('hooks, options, match', [
    ([dict(type='L2SPHook', strength=0.1, modules='bakbone')], {}, "no submodule 'bakbone'"),
    ([dict(type='L2SPHook', strength=0.1), dict(type='SPDHook', strength=1.0)], {}, 'two hooks of L2SPHook and SPD'),
    ([dict(type='L2SPHook', strength=0.1, modules='backbone.layer4')], {}, "group 'backbone' holds other parameters"),
    ([dict(type='SPDHook', strength=1.0)], {'model.backbone.frozen_stages': 4}, 'no parameter in them is trained'),
    pytest.param([dict(type='SPDHook', strength=1.0)], {'optim_wrapper.optimizer.fused': True}, 'leave out fused=True',
                 marks=pytest.mark.skipif(torch.__version__ < '2.3', reason="SGD has no fused before torch 2.3")),
])
def test_what_cannot_be_pulled_is_refused(hooks, options, match, make):
    with pytest.raises(ValueError, match=match):
        train(make(*hooks, config='ft', iters=1, **options))


def test_a_run_that_began_without_the_hook_is_refused(make):
    """It began with the hook for a stage alone, where nothing is decayed."""
    options = {'optim_wrapper.optimizer.weight_decay': 0}
    runner = train(make(dict(type='SPDHook', strength=1.0, modules='backbone.layer4'), config='ft', **options))
    hook = next(hook for hook in runner.hooks if isinstance(hook, SPDHook))
    assert hook.start.keys() == {n for n, _ in runner.model.named_parameters() if n.startswith('backbone.layer4.')}
    cfg = make(dict(type='SPDHook', strength=1.0), config='ft', iters=4, **options)
    cfg.resume = True
    with pytest.raises(RuntimeError, match='started with SPDHook for other parameters'):
        train(cfg)
    checkpoint = cfg.work_dir + '/iter_2.pth'
    content = torch.load(checkpoint, weights_only=False)
    del content[START]
    torch.save(content, checkpoint)
    with pytest.raises(RuntimeError, match='2 iterations without SPDHook'):
        train(cfg)
