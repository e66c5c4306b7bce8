"""What the tests of scenarios share."""

import pytest
from fake_lab import FakeMesh


@pytest.fixture
def mesh():
    fake = FakeMesh()
    yield fake
    fake.shutdown()
    fake.server_close()
