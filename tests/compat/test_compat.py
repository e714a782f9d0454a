"""The repairs: each in a process of its own, as they act when mmseg_daft is imported."""

import subprocess
import sys

import mmseg
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils.dl_utils import mmcv_full_available
from packaging.version import Version

LITE = not mmcv_full_available()
NEEDS_STAND_IN = LITE and Version(mmseg.__version__) < Version('1.4')


def python(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


@pytest.mark.skipif(not NEEDS_STAND_IN, reason='mmcv has its ops, or mmseg does without')
def test_mmcv_lite_alone_cannot_import_the_heads():
    """The repair is needed: without it, this fails."""
    result = python('import mmseg.models')
    assert result.returncode != 0 and 'mmcv._ext' in result.stderr


@pytest.mark.skipif(not NEEDS_STAND_IN, reason='mmcv has its ops, or mmseg does without')
def test_an_op_fails_when_called_and_says_what_to_install():
    result = python('import mmseg_daft, mmseg.apis, torch\n'
                    'from mmcv.ops import nms\nnms(torch.rand(2, 4), torch.rand(2), 0.5)')
    assert result.returncode != 0
    assert "compiled mmcv op 'nms', which mmcv-lite does not have" in result.stderr


@pytest.mark.skipif(not LITE, reason='a compiled mmcv is installed')
def test_mmcv_still_tells_the_truth_about_its_ops():
    result = python('import mmseg_daft\nfrom mmengine.utils.dl_utils import mmcv_full_available\n'
                    'assert not mmcv_full_available()')
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(LITE, reason='mmcv-lite is installed')
def test_a_compiled_mmcv_is_untouched():
    result = python('import mmseg_daft, torch, mmcv._ext\nfrom mmcv.ops import nms\n'
                    'boxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 9]])\n'
                    'assert len(nms(boxes, torch.tensor([.9, .8]), 0.5)[1]) == 1\n'
                    'assert mmcv._ext.__spec__.loader is not None')
    assert result.returncode == 0, result.stderr


def test_a_sliced_data_set_can_be_copied():
    """MMEngine's, of num_batch_per_epoch; without the repair, a copy never ends."""
    copied = ('import copy\nfrom mmengine.runner.runner import _SlicedDataset\n'
              'd = copy.deepcopy(_SlicedDataset([3, 4], 1))')
    assert 'RecursionError' in python(copied).stderr
    result = python(f'import mmseg_daft\n{copied}\nassert len(d) == 1 and d[0] == 3')
    assert result.returncode == 0, result.stderr


@pytest.fixture
def checkpoint(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1], max_length=10)
    state = dict(log_scalars={'train/loss': buffer}, runtime_info={'iter': 3, 'x': np.float64(0.5)}, resumed_keys={})
    torch.save({'message_hub': state, 'optimizer': {'lr': np.float32(0.1)}}, tmp_path / 'c.pth')
    return tmp_path / 'c.pth'


def test_checkpoints_of_mmengine_load_with_weights_only(checkpoint):
    loaded = torch.load(checkpoint, weights_only=Version(torch.__version__) >= Version('2.6'))
    buffer = loaded['message_hub']['log_scalars']['train/loss']
    assert buffer.mean() == 1.5 and buffer.current() == 2.0


@pytest.mark.skipif(Version(torch.__version__) < Version('2.6'), reason='torch loads anything before 2.6')
def test_the_repair_is_needed_and_weights_only_stays_on(checkpoint, tmp_path):
    result = python(f'import torch; torch.load({str(checkpoint)!r})')
    assert result.returncode != 0 and 'HistoryBuffer' in result.stderr
    torch.save({'evil': print}, tmp_path / 'evil.pth')
    result = python(f'import mmseg_daft, torch; torch.load({str(tmp_path / "evil.pth")!r})')
    assert result.returncode != 0 and 'Weights only load failed' in result.stderr


class Crafted:
    """Unpickles to ``getattr(HistoryBuffer, '__init__')``."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.skipif(Version(torch.__version__) < Version('2.6'), reason='torch loads anything before 2.6')
def test_getattr_serves_the_four_statistics_alone(tmp_path):
    torch.save({'crafted': Crafted()}, tmp_path / 'crafted.pth')
    with pytest.raises(Exception, match="attribute '__init__'"):
        torch.load(tmp_path / 'crafted.pth')
