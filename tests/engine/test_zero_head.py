"""Zeros for a linear head: no gradient for the backbone until the head has moved; refused where they would block."""

import pytest
import torch
from torch import nn

from mmseg_daft.engine.zero_head import zero_head


def test_the_backbone_gets_no_gradient_first_and_some_then():
    torch.manual_seed(0)
    backbone = nn.Conv2d(3, 4, 3)
    head = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(4, 5, 1))
    assert zero_head(head) is head[1]
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1)
    images, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 5, (2, 6, 6))
    largest = []
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(backbone(images)), labels).backward()
        largest.append(max(float(p.grad.abs().max()) for p in backbone.parameters()))
        assert head[1].weight.grad.abs().max() > 0
        optimizer.step()
    assert largest[0] == 0 < largest[1]


@pytest.mark.parametrize('head, message', [
    (nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1)), r'2 layers with parameters: 0 \(Conv2d\), 2'),
    (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)), 'stop the gradient'),
    (nn.BatchNorm2d(4), r'only one of BatchNorm2d is BatchNorm2d'),
    (nn.ReLU(), '0 layers')], ids=['two', 'bn', 'only bn', 'none'])
def test_other_heads_are_refused_as_they_were(head, message):
    before = [p.clone() for p in head.parameters()]
    with pytest.raises(ValueError, match=message):
        zero_head(head)
    assert all(torch.equal(a, b) for a, b in zip(before, head.parameters()))
