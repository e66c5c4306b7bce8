"""Every row of what Istio's resources must do names tests that see live Envoys do it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

TESTS = Path(__file__).parents[1]
ROWS = yaml.safe_load((TESTS / "behaviours.yaml").read_text())
FLAT = [(f"{kind}: {what}", names) for kind, rows in ROWS.items() for what, names in rows.items()]


def file_of(short: str) -> Path:
    """``routes`` is test_traffic_routes.py, ``peers`` test_security_peers.py, others have no group."""
    found = [TESTS / f"mesh/test_{group}{short}.py" for group in ("traffic_", "security_", "")]
    return next((f for f in found if f.exists()), found[-1])


@pytest.mark.parametrize(("row", "named"), FLAT, ids=[row for row, _ in FLAT])
def test_a_row_is_seen_on_live_envoys(row: str, named: dict[str, list[str]]) -> None:
    assert named
    for short, tests in named.items():
        tree = ast.parse(file_of(short).read_text())
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert tests
        assert set(tests) <= there, set(tests) - there
