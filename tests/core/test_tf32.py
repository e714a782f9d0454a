"""TF32 is off within, and the user's settings are back afterwards, under either of torch's interfaces."""

import subprocess
import sys

import pytest
import torch

CHECK = '''
import torch
from mmseg_daft.core.algorithm import _without_tf32
{setting}
read = lambda: ({reading})
before = read()
try:
    with _without_tf32():
        inside = read()
        raise OSError
except OSError:
    pass
assert before == read() == {on}, (before, read())
assert inside == {off}, inside
'''
OLD = dict(setting='torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True',
           reading='torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32',
           on=(True, True), off=(False, False))
NEW = dict(setting="torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = 'tf32'",
           reading='torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision',
           on=('tf32', 'tf32'), off=('ieee', 'ieee'))


@pytest.mark.parametrize('interface', ['old', 'new'])
def test_off_within_and_restored(interface):
    if interface == 'new' and not hasattr(torch.backends.cudnn, 'conv'):
        pytest.skip('this torch has the older interface alone')
    if interface == 'old' and hasattr(torch.backends.cudnn, 'conv'):
        old = dict(OLD, reading=NEW['reading'], on=NEW['on'], off=NEW['off'])  # what was set the old way reads so
        code = CHECK.format(**old)
    else:
        code = CHECK.format(**(OLD if interface == 'old' else NEW))
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
