"""The data of the classification tasks. Without MMPretrain or scikit-learn all tests here are skipped, and say so."""

import importlib.util

import pytest
from mmengine.registry import init_default_scope

MISSING = [name for name in ('mmpretrain', 'sklearn') if importlib.util.find_spec(name) is None]


@pytest.fixture(scope='session', autouse=True)
def needs_mmpretrain():
    """Skip where it is not installed."""
    if MISSING:
        pytest.skip(f"{' and '.join(MISSING)} is not here, so nothing of classification was tested: "
                    "pip install 'mmseg-daft[classification]'")


@pytest.fixture(autouse=True)
def mmseg_afterwards():
    """Let what runs next in this process build mmseg's models again."""
    yield
    init_default_scope('mmseg')


@pytest.fixture(scope='session')
def tasks(tmp_path_factory, needs_mmpretrain):
    """A folder with tiny data of the paper's tasks in real layouts, and digits; CIFAR-10's checksums do not count."""
    from mmpretrain.datasets import CIFAR10
    from support.classification import write_breeds, write_cifar10, write_domainnet, write_fmow

    from docs.write_digits import main as write_digits

    root = tmp_path_factory.mktemp('tasks')
    for write in (write_cifar10, write_breeds, write_domainnet, write_fmow):
        write(root)
    write_digits(root / 'digits')
    before = CIFAR10.train_list, CIFAR10.test_list
    CIFAR10.train_list, CIFAR10.test_list = ([(name, None) for name, _ in files] for files in before)
    yield root
    CIFAR10.train_list, CIFAR10.test_list = before
