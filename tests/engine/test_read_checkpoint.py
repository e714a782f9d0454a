"""What a checkpoint is, and what is said of a file that MMEngine would load nothing, or too much, from."""

import argparse
import pathlib

import pytest
import torch
from packaging.version import Version
from support import ON_FORK
from torch import nn

from mmseg_daft.engine.checkpoints import read_checkpoint

T = torch.zeros(2)
WEIGHTS = {'conv.weight': T, 'bn.weight': T}


@pytest.mark.parametrize('content', [
    WEIGHTS, {'state_dict': WEIGHTS}, {'state_dict': WEIGHTS, 'model': {**WEIGHTS, 'more': T}},
    {**WEIGHTS, 'optimizer': {'state': {i: {'momentum_buffer': T} for i in range(9)}}}])
def test_tensors_under_state_dict_or_alone_are_weights(content, tmp_path):
    torch.save(content, tmp_path / 'x.pth')
    state, _ = read_checkpoint(str(tmp_path / 'x.pth'))
    assert {name for name, value in state.items() if isinstance(value, torch.Tensor)} == set(WEIGHTS)


@pytest.mark.parametrize('content, place', [
    ({'model': WEIGHTS}, "under ['model'] (2). Write"),
    ({'epoch': T, 'model': WEIGHTS}, "under ['model'] (2). Write"),
    ({'student': {'a': T}, 'teacher': WEIGHTS}, "under ['teacher'] (2), ['student'] (1). Write"),
    ({'state_dict': {'net': WEIGHTS}}, "under ['state_dict']['net'] (2). Write"),
    ({'model': {'state_dict': WEIGHTS}, 'optimizer': {'state': {i: {'momentum': T} for i in range(9)}}},
     "under ['model']['state_dict'] (2), ['optimizer']['state'][0] (1), ")])
def test_tensors_elsewhere_are_found_and_the_fix_makes_a_checkpoint(content, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, 'x.pth')
    with pytest.raises(ValueError) as refused:
        read_checkpoint('x.pth')
    message = str(refused.value)
    assert "holds its tensors not under 'state_dict', but " + place in message and len(message) < 500
    fix = message[message.index('torch.save('):message.index('. Then name')]
    exec(fix, {'torch': torch})
    assert set(read_checkpoint('tensors.pth')[0]) == set(WEIGHTS)


@pytest.mark.skipif(ON_FORK or Version(torch.__version__) < Version('2.6'),
                    reason='torch before 2.6, and onedl-mmengine, load anything')
@pytest.mark.parametrize('content, kind', [
    ({'state_dict': WEIGHTS, 'args': argparse.Namespace(lr=1)}, 'argparse.Namespace'),
    ({'state_dict': WEIGHTS, 'path': pathlib.PurePosixPath('x')}, 'pathlib.'),
    (nn.Linear(1, 1), 'torch.nn.modules.linear.Linear')])
def test_a_type_that_the_safe_reader_refuses_is_named(content, kind, tmp_path):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=f'x.pth holds {kind}.*which is no plain data.*weights_only=False') as refused:
        read_checkpoint(str(tmp_path / 'x.pth'))
    assert 'get it again' not in str(refused.value)


@pytest.mark.parametrize('size', [0, 100, 5000])
def test_a_torn_file_is_named(size, tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(5000)}}, tmp_path / 'x.pth')
    (tmp_path / 'x.pth').write_bytes((tmp_path / 'x.pth').read_bytes()[:size])
    with pytest.raises(ValueError, match='x.pth is no checkpoint: PyTorch cannot read it .* get it again'):
        read_checkpoint(str(tmp_path / 'x.pth'))
