"""Tests on real machines.  Those that need a whole lab share one, the default lab, which comes up once."""

import os

import pytest
from commands import cli, left_behind

SHARED = "bookinfo"


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/vm/" in str(item.path) or "/tests/infra/" in str(item.path):
            item.add_marker(pytest.mark.vm)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: a lab with a libvirt daemon of its own"))


@pytest.fixture(scope="session")
def bookinfo():
    """The default lab, brought up from nothing by the command line; its report.  Taken down at the end."""
    import json

    cli("down", "-i", SHARED)
    yield json.loads(cli("up", "-i", SHARED, "--json", limit=600))
    cli("down", "-i", SHARED)
    assert left_behind(SHARED) == []
