"""Meshes that the tests of this folder share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import TWO_SERVICES, MeshHarness

INVENTORIES = Path(__file__).resolve().parents[2] / "inventories"


def why_not() -> str:
    """Why no mesh can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [t for t in ("ip", "nft", "tcpdump", "setpriv", "ss") if shutil.which(t) is None]
    return f"{', '.join(missing)}: not installed" if missing else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = why_not()
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.mesh)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def bookinfo_mesh() -> Iterator[MeshHarness]:
    """The default lab's services: gateway, client, productpage, details, reviews v1 to v3, ratings, ...

    The programs are the tests' own: they answer with what they were asked.  Shared by all tests: each applies
    the whole configuration that it needs.
    """
    with MeshHarness.from_inventory(INVENTORIES / "bookinfo.yaml") as mesh:
        yield mesh


@pytest.fixture(scope="session")
def two_services() -> Iterator[MeshHarness]:
    """A service ``web`` (http on 80, tcp on 9000) in two versions, and a client."""
    with MeshHarness.from_inventory(TWO_SERVICES) as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def logs_of_this_test_only(request: pytest.FixtureRequest) -> None:
    """A module's mesh serves all its tests: what an earlier one did is not in the logs of the next."""
    if "mesh" in request.fixturenames:
        request.getfixturevalue("mesh").clear_logs()
