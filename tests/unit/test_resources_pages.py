"""The reference pages that are written from the code are current."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.resources.reference import lint_page, migrate_page

REFERENCE = Path(__file__).parents[2] / "docs/reference"


@pytest.mark.parametrize(("name", "page"), [("lint.md", lint_page), ("migrate.md", migrate_page)])
def test_a_page_is_current(name, page):
    if os.environ.get("TESTBED_WRITE"):
        (REFERENCE / name).write_text(page())
    assert (REFERENCE / name).read_text() == page(), "run this test with TESTBED_WRITE=1"
