"""Checks run one after the other; the training forward and the memory of a run."""

import pytest
import torch
from torch import nn

from mmseg_daft.doctor.finding import Examination, Verdict, ok
from mmseg_daft.doctor.training import (
    build_config,
    build_model,
    check_memory,
    check_rates,
    check_step,
    optimizer_state_bytes,
    saved_bytes,
)

MB = 2**20


def run(check, *args):
    """Run a check; return what it makes and its findings."""
    exam = Examination()
    return exam.check('a check', check, *args), exam.findings


def test_an_exception_in_a_check_is_a_failure_and_ends_nothing():
    def broken():
        yield ok('fine')
        raise KeyError('somewhere')
    exam = Examination()
    assert exam.check('first', broken) is None and exam.check('second', lambda: 1 / 0) is None
    assert exam.check('third', broken, None) is None and exam.check('second', broken, None) is None
    assert [(f.check, f.verdict.value) for f in exam.findings] == [
        ('first', 'OK'), ('first', 'FAIL'), ('second', 'FAIL'), ('third', 'SKIP')]
    assert exam.findings[1].found == "KeyError: 'somewhere'" and exam.failed('first') and not exam.failed('third')


def test_a_check_returns_what_later_checks_need():
    def making():
        yield ok('made')
        return 5
    assert run(making) == (5, [ok('made', check='a check')]) and run(lambda: 6) == (6, [])


class Squared(nn.Sequential):
    def forward(self, x):
        return super().forward(x).square().sum()


def test_saved_bytes_are_those_of_a_count_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                        nn.Conv2d(8, 4, 1, bias=False))
    x = torch.rand(2, 3, 16, 16)
    _, counted = saved_bytes(Squared(net), x)
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
    cfg, _ = run(build_config, case.write(), [])
    (small, [at_small]), (whole, [at_whole]) = (
        run(check_step, cfg, build_model(cfg), False, full) for full in (False, True))
    size = f'at {crop[1]}x{crop[0]},'
    assert small[1] == whole[1] == crop and size in at_whole.found and size not in at_small.found
    assert small[0] == pytest.approx(whole[0], rel=0.06)


def test_memory_is_compared_with_the_card(case, monkeypatch):
    cfg, _ = run(build_config, case.write(), [])
    model = build_model(cfg)
    optimizer, _ = run(check_rates, cfg, model)
    step, _ = run(check_step, cfg, model, False, False)
    _, [found] = run(check_memory, cfg, model, optimizer, step)
    assert found.verdict is Verdict.OK and 'Cards of 8 GB' in found.found

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda _: type('Card', (), {'total_memory': MB}))
    _, [found] = run(check_memory, cfg, model, optimizer, step)
    assert found.verdict is Verdict.FAIL and 'AmpOptimWrapper' in found.fix


def test_mixed_precision_is_examined_without_a_gpu(case, examine):
    case.cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    exam = examine(case.write())
    assert exam.problems == 0 and 'halved as mixed precision' in exam.text('GPU memory', Verdict.OK)
