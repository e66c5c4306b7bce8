"""The plugin as other people's suites meet it: its options, the fixture's life, and how verdicts end a test."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parent / "scenarios"))
from fake_lab import FakeMesh

from testbed.host.daemon import PrivateDaemon
from testbed.lab.lab import Lab

# imported here, so that the runs inside, which forget what they import, meet the same modules
from testbed.workflows import down, loading, status, up
from testbed.workflows import verify as workflow

pytest_plugins = ["pytester"]

INVENTORY = """\
id: played
nodes: [{name: one}]
services: [{name: reviews, ports: [{name: http, port: 9080}]}]
workloads: [{service: reviews, node: one}]
"""
SUITE = """
def test_passes(lab):
    record = lab.check(when={"from": "client", "service": "reviews"}, expect={"status": 200})
    assert record.verdict.passed

def test_fails(lab):
    lab.check(name="wrong", when={"from": "client", "service": "reviews"}, expect={"status": 418})

def test_is_not_applicable(lab):
    lab.verify("elsewhere.yaml")

def test_is_not_applicable_in_part(lab):
    lab.verify("here.yaml", "elsewhere.yaml")

def test_fails_in_part(lab):
    lab.verify("elsewhere.yaml", "wrong.yaml")

def test_chances(lab):
    split = {"service": "reviews", "weights": {"v1": 50, "v2": 50}, "tolerance": 20}
    sure = lab.check(when={"from": "client", "service": "reviews"}, expect={"split": split}, alpha=0.0001, beta=0.0002)
    quick = lab.check(when={"from": "client", "service": "reviews"}, expect={"split": split}, alpha=0.05, beta=0.06)
    assert (sure.verdict.alpha, sure.verdict.beta) == (0.0001, 0.0002)
    assert (quick.verdict.alpha, quick.verdict.beta) == (0.05, 0.06)
    assert len(quick.steps[0].samples) < len(sure.steps[0].samples)
"""
SCENARIO = """\
name: {name}
description: d
promise: every call is answered
needs: [{needs}]
when: {{from: client, service: reviews}}
expect: {{status: {status}}}
"""


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What the fixture does to the lab; the lab itself is a mesh that is played."""
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    fake, made = FakeMesh(), []
    for module in (down, loading, status, up, workflow):
        assert sys.modules[module.__name__] is module  # else a machine might be started
    for name in ("start", "find"):
        monkeypatch.setattr(PrivateDaemon, name, lambda *_, **__: pytest.fail("a test of values started a lab"))
    monkeypatch.setattr(workflow, "lab_under_test", lambda _: fake.lab())
    monkeypatch.setattr(workflow, "require_up", lambda _: None)
    monkeypatch.setattr(Lab, "hypervisor_if_up", lambda _: None)
    monkeypatch.setattr(status, "status", lambda lab: made.append(f"status {lab.id}") or STATUS)
    monkeypatch.setattr(up, "up", lambda lab, _, prove: made.append(f"up {lab.id} {prove}"))
    monkeypatch.setattr(down, "down", lambda lab, _: made.append(f"down {lab.id}"))
    yield made
    fake.shutdown()
    fake.server_close()


STATUS = SimpleNamespace(up=False)


@pytest.fixture
def suite(pytester, calls):
    pytester.makefile(".yaml", lab=INVENTORY)
    for name, needs, code in (("here", "reviews", 200), ("elsewhere", "ratings", 200), ("wrong", "reviews", 418)):
        pytester.makefile(".yaml", **{name: SCENARIO.format(name=name, needs=needs, status=code)})
    pytester.makepyfile(test_suite=SUITE)

    def run(*options):
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "-rs", "--testbed-inventory", "lab.yaml", *options
        )

    return run


def test_a_verdict_ends_a_test_as_what_it_is_and_not_applicable_is_never_green(suite, calls):
    result = suite()
    result.assert_outcomes(passed=2, failed=2, skipped=2)
    said = result.stdout.str()
    assert "wrong: FAIL: expect status" in said
    assert "request 0: answered 200" in said
    assert "evidence: evidence/played-" in said
    assert "elsewhere: NOT_APPLICABLE: the lab has no ratings" in said
    assert calls == ["status played", "up played False", "down played"]


def test_bundles_go_where_the_option_says(suite, pytester):
    suite("--testbed-evidence", "kept", "-k", "test_passes")
    assert len(list((pytester.path / "kept").glob("*/report.html"))) == 1
    assert not (pytester.path / "evidence").exists()


@pytest.mark.parametrize(("was_up", "options"), [(True, []), (False, ["--testbed-keep"])])
def test_a_lab_that_was_up_or_is_to_be_kept_stays(suite, calls, monkeypatch, was_up, options):
    monkeypatch.setattr(STATUS, "up", was_up)
    suite("-k", "test_passes", *options).assert_outcomes(passed=1, deselected=5)
    assert calls == ["status played", "up played False"]


def test_an_inventory_that_is_not_there_is_an_error_of_the_test(pytester, calls):
    pytester.makepyfile("def test_it(lab): pass")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--testbed-inventory", "nowhere")
    result.assert_outcomes(errors=1)
    assert "no such inventory" in result.stdout.str()
    assert calls == []
