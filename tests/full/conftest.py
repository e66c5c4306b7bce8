"""The lab of a file of tests that names one: ``LAB``, an inventory of the project's, and ``UP_LIMIT`` in seconds."""

import pytest
from mirrored import mirrored


@pytest.fixture(scope="module")
def lab(request, tmp_path_factory):
    with mirrored(request.module.LAB, tmp_path_factory.mktemp("inventory"), request.module.UP_LIMIT) as made:
        yield made
