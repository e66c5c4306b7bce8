"""Every command that the documents show is run, in their order, on a lab that is up.

The README's two `make` targets are left out: this test is part of the one, and `up` on a lab that is up is run
in its place as `testbed up`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import COMMAND, cli

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from documents import documents

from testbed.host.directories import testbed_home as home

EXPECTED_ELSEWHERE = {"lint": {0, 2}}
"""`lint` ends with 2 when it has an error to show, which is what a page may want to show."""


@pytest.mark.parametrize("document", documents(), ids=lambda d: d.path.stem)
def test_the_commands_of_a_page_work(bookinfo, document, tmp_path):
    for name, text in {**_borrowed(), **document.files}.items():
        (tmp_path / name).write_text(text)
    for folder in ("playbooks", "inventories"):
        (tmp_path / folder).symlink_to(home() / folder)
    there = _snapshots()
    try:
        for words in document.commands:
            if words[0] != "testbed" or words[1] in ("down", "stop"):
                continue
            done = subprocess.run(
                [*COMMAND, *words[1:]], capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False
            )
            assert done.returncode in EXPECTED_ELSEWHERE.get(words[1], {0}), f"{words}: {done.stderr}"
    finally:
        for name in _snapshots() - there:  # of a page that broke off
            cli("snapshot", "delete", name)
        cli("up", "--no-verify")


def _snapshots():
    return {s["name"] for s in json.loads(cli("snapshot", "list", "--json"))}


def _borrowed():
    """The tutorial's files: other pages speak of them."""
    return next(d.files for d in documents() if d.path.stem == "tutorial")
