"""The script that closes half-open connections, with programs that play ss and nsenter."""

import os
import subprocess

import pytest

from testbed.lab import halfopen

SS = """#!/bin/sh
echo "here $*"
exit ${SS_STATUS:-0}
"""
NSENTER = """#!/bin/sh
echo "$1"
case $1 in *gone) rm "${1#--net=}"; exit 1 ;; *wrong) exit 1 ;; esac
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Runs it on a node with network namespaces of these names."""
    for name, text in (("ss", SS), ("nsenter", NSENTER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    there = tmp_path / "netns"
    monkeypatch.setattr(halfopen, "_NAMESPACES", str(there))

    def run(*names, **environment):
        there.mkdir()
        for name in names:
            (there / name).touch()
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-c", halfopen._script(["10.78.0.11"])],
            capture_output=True, text=True, check=False, env=path | environment,
        )  # fmt: skip
        return done.returncode, [line.rsplit("/", 1)[-1] for line in done.stdout.splitlines()]

    return run


HERE = "here -HtK state connected dst 10.78.0.11"


def test_a_node_without_pods_has_its_own_connections_only(script):
    assert script() == (0, [HERE])


def test_every_namespace_is_looked_at_and_one_may_go_meanwhile(script):
    assert script("a", "gone", "z") == (0, [HERE, "a", "gone", "z"])


def test_what_could_not_be_closed_is_no_success(script):
    assert script("a", "wrong", "z") == (1, [HERE, "a", "wrong"])


def test_neither_is_a_node_whose_own_could_not_be_closed(script):
    assert script("a", SS_STATUS="3") == (3, [HERE])
