"""A server of releases, and no proxy or mirror of whoever runs the tests."""

import pytest
from release_server import serving


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("TESTBED_MIRROR", raising=False)


@pytest.fixture
def server():
    with serving() as release:
        yield release
