"""L2-SP and SPD against their formulas in float64: the penalty by autograd, the projection by plain numbers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmseg_daft.core.start_penalty import SelectiveProjection, add_l2_sp

OPTIMIZERS = {
    'sgd': lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    'adam': lambda ps: torch.optim.Adam(ps, lr=0.2)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()


def batches():
    g = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 8, generator=g, dtype=torch.double) for _ in range(12)]


def loss(net, batch):
    return (net(batch) - 1).square().mean()


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_l2_sp_is_the_penalty_in_the_loss(optimizer):
    ours, reference = network(), network()
    start = [p.detach().clone() for p in ours.parameters()]
    steps = OPTIMIZERS[optimizer](ours.parameters()), OPTIMIZERS[optimizer](reference.parameters())
    ours[3].bias.requires_grad = reference[3].bias.requires_grad = False
    steps[0].register_step_pre_hook(lambda *_: add_l2_sp(list(ours.parameters()), start, 0.3))
    for batch in batches():
        penalty = sum((p - s).square().sum() for p, s in zip(reference.parameters(), start, strict=True))
        for step, total in zip(steps, (loss(ours, batch), loss(reference, batch) + 0.15 * penalty), strict=True):
            step.zero_grad()
            total.backward()
            step.step()
    for p, q, s in zip(ours.parameters(), reference.parameters(), start, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
        assert torch.equal(p, s) != p.requires_grad


def projected(before, step, origin, gradient, strength):
    """SPD of one tensor (Tian, Huang, Kira 2024, Algorithm 1): c < 0 is a descent direction back to the start."""
    before, step, origin, gradient = (t.detach().numpy().ravel() for t in (before, step, origin, gradient))
    c = -gradient @ (before - origin)
    if c >= 0:
        return step
    far, near = np.linalg.norm(step - origin), np.linalg.norm(before - origin)
    return step - strength * max(0.0, (far - near) / far) * (step - origin)


@pytest.mark.parametrize('strength', [0.5, 1.0])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_selective_projection_is_that_of_plain_numbers(optimizer, strength):
    ours = network()
    start = [p.detach().clone() for p in ours.parameters()]
    step, projections = OPTIMIZERS[optimizer](ours.parameters()), 0
    for batch in batches():
        step.zero_grad()
        loss(ours, batch).backward()
        before, gradients = [p.detach().clone() for p in ours.parameters()], [p.grad.clone() for p in ours.parameters()]
        plain, plain_step = copy.deepcopy(ours), copy.deepcopy(step.state_dict())
        projection = SelectiveProjection(list(ours.parameters()), start)
        step.step()
        projection.finish(strength)

        other = OPTIMIZERS[optimizer](plain.parameters())
        other.load_state_dict(plain_step)
        for p, gradient in zip(plain.parameters(), gradients, strict=True):
            p.grad = gradient
        other.step()
        for p, q, b, s, gradient in zip(
                ours.parameters(), plain.parameters(), before, start, gradients, strict=True):
            expected = projected(b, q, s, gradient, strength)
            np.testing.assert_allclose(p.detach().numpy().ravel(), expected, rtol=1e-10, atol=1e-13)
            projections += not np.array_equal(expected, q.detach().numpy().ravel())
            if strength == 1 and gradient.ravel() @ (b - s).ravel() > 0:
                assert (p - s).norm() <= (b - s).norm() * (1 + 1e-12)
    assert projections > 3


def test_at_the_start_and_without_gradients_nothing_is_pulled():
    p, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    p.grad = torch.zeros(3)
    start = [p.detach().clone(), torch.zeros(3)]
    add_l2_sp([p, unused], start, 1.0)
    SelectiveProjection([p, unused], start).finish(1.0)
    assert torch.equal(p.grad, torch.zeros(3)) and unused.grad is None
    assert torch.equal(p, torch.ones(3)) and torch.equal(unused, torch.ones(3))
