"""The data of the classification tasks. Without MMPretrain or scikit-learn all tests here are skipped, and say so."""

import importlib.util

import pytest

MISSING = [name for name in ('mmpretrain', 'sklearn') if importlib.util.find_spec(name) is None]


@pytest.fixture(scope='session', autouse=True)
def needs_mmpretrain():
    """Skip where it is not installed."""
    if MISSING:
        pytest.skip(f"{' and '.join(MISSING)} is not here, so nothing of classification was tested: "
                    "pip install 'mmseg-daft[classification]'")


@pytest.fixture(scope='session')
def tasks(tmp_path_factory, needs_mmpretrain):
    """A folder with tiny data of all five tasks in the real layouts; CIFAR-10's checksums are not asked for."""
    from mmpretrain.datasets import CIFAR10
    from support.classification import write_breeds, write_cifar10, write_domainnet, write_fmow

    root = tmp_path_factory.mktemp('tasks')
    for write in (write_cifar10, write_breeds, write_domainnet, write_fmow):
        write(root)
    before = CIFAR10.train_list, CIFAR10.test_list
    CIFAR10.train_list, CIFAR10.test_list = ([(name, None) for name, _ in files] for files in before)
    yield root
    CIFAR10.train_list, CIFAR10.test_list = before
