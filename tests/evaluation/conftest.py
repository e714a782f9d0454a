"""What tests of the evaluation share."""

import pytest


@pytest.fixture(scope='session')
def case(tmp_path_factory):
    """A pre-trained start, FT and DAFT from it, trained by real small runs."""
    from support.distortion_case import DistortionCase  # not before the settings of tests/conftest.py

    return DistortionCase(tmp_path_factory.mktemp('evaluated'))
