"""What every test may use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from commands import SHARED, cli, forget, left_behind


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proves(*fields): fields of Istio's API that the test proves; see ledger.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"vm", "infra"} & set(item.path.parts):
            item.add_marker(pytest.mark.vm)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: a lab with a libvirt daemon of its own"))


@pytest.fixture(scope="session")
def bookinfo() -> Iterator[dict[str, object]]:
    """The default lab, made by the command line as people make it, so of clones; its report.  Taken down at the end."""
    cli("down", "-i", SHARED)
    forget(SHARED)
    report = json.loads(cli("up", "-i", SHARED, "--json", limit=600))
    assert report["not_cloned"] is None
    yield report
    cli("down", "-i", SHARED)
    assert left_behind(SHARED) == []
