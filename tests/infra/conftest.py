"""The nodes that are looked at are those of the lab that all tests on machines share."""

import pytest
from commands import SHARED

from testbed.pytest_plugin import LabFixture
from testbed.workflows.loading import load_lab


@pytest.fixture(scope="session")
def lab(bookinfo):
    with load_lab(SHARED).closing() as made:
        yield LabFixture(made)
